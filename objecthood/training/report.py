"""Report of a run folder: one self-contained HTML page with scores, curves, images, recipe and machine.

The page has no scripts and no external resources: inline style, SVG curves (`visualize.charts`), images as
data URLs. It can be written during training; missing files and incomplete lines are skipped.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from objecthood.recipes.score_names import title as title_of
from objecthood.runtime.files import is_number, parse_json, read_plain, write_text
from objecthood.training.run_log import read_log
from objecthood.visualize.charts import Number, line_chart, short_number

Record = dict[str, Any]  # a JSON object

NOT_SCORES = {"kind", "step", "seconds", "cpu_seconds"}
LARGEST = 1e100
"""Bound of plotted numbers; larger ones come from damaged files and would overflow tick spacing."""
FURTHER_CURVES = ("learning_rate", "gradient_norm", "images_per_second")
IMAGE_TYPES = {".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}
# The browser loads inline data and style only.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f7f9; --ink: #1b1e25; --soft: #616875;
  --rule: #dfe2e8; --mark: #3a57ff; --band: #3a57ff26; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171c; --card: #1c1f26; --ink: #e3e6eb;
  --soft: #989fac; --rule: #2e323c; --mark: #7f9cff; --band: #7f9cff2e; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 68rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.15rem; }
p { margin: .5rem 0; max-width: 54rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.tiles, .charts { display: grid; gap: .75rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); margin: 1.25rem 0 .75rem; }
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); margin-top: .75rem; }
.tile, .chart, .image { margin: 0; padding: .8rem 1rem; background: var(--card);
  border: 1px solid var(--rule); border-radius: .6rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.25; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
.image { margin-bottom: .75rem; }
.image img { display: block; max-width: 100%; height: auto; margin: 0 auto .5rem; border-radius: .3rem; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 13px; font-variant-numeric: tabular-nums; }
svg text.last { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--rule); } .axis { stroke: var(--soft); } .band { fill: var(--band); }
.line { fill: none; stroke: var(--mark); stroke-width: 1.8; stroke-linejoin: round; }
circle.last { fill: var(--mark); }
table { width: 100%; border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th { width: 34%; color: var(--soft); font-weight: 400; }
summary { margin-top: .75rem; color: var(--soft); cursor: pointer; }
"""


def write_report(run_folder: Path) -> Path:
    """Write `index.html` into a run folder, atomically, and return its path.

    Uses `recipe.json`, `metrics.jsonl`, `result.json`, `latest.png` and the images in `figures/`, if present.

    Raises:
        FileNotFoundError: the folder does not exist.

    >>> import tempfile
    >>> write_report(Path(tempfile.mkdtemp())).name
    'index.html'
    """
    recipe, result = _read_object(run_folder / "recipe.json"), _read_object(run_folder / "result.json")
    records = sorted(read_log(run_folder / "metrics.jsonl"), key=lambda record: record["step"])
    trained = [record for record in records if record["kind"] == "train"]
    evaluated = [record for record in records if record["kind"] == "evaluate"]
    title = str(recipe.get("name") or run_folder.resolve().name)
    sections = [
        _head(title, recipe, result, evaluated, records),
        _curves(trained, evaluated),
        _images(run_folder),
        _table("Recipe", {key: value for key, value in recipe.items() if key != "description"}),
        _table("Result and environment", {key: value for key, value in result.items() if key != "scores"}),
    ]
    page = run_folder / "index.html"
    write_text(page, _page(title, sections))
    return page


def _read_object(path: Path) -> Record:
    """A JSON object, or {} if the file is missing, a link, or no JSON object."""
    try:
        value = parse_json(read_plain(path) or b"")
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_drawn(value: Any) -> bool:
    """Whether a value is a number within `LARGEST`."""
    return is_number(value) and abs(value) <= LARGEST


def _scores(record: Mapping[str, Any]) -> dict[str, Number]:
    return {key: value for key, value in record.items() if _is_drawn(value) and key not in NOT_SCORES}


def _duration(seconds: Number) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _page(title: str, sections: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">\n'
        f"<title>{escape(title)} · objecthood</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _head(title: str, recipe: Record, result: Record, evaluated: list[Record], records: list[Record]) -> str:
    """Title, description, scores as tiles, a summary sentence and the protocol."""
    given = result.get("scores")
    final = _scores(given) if isinstance(given, dict) else {}
    scores = final or (_scores(evaluated[-1]) if evaluated else {})
    parts = [f"<h1>{escape(title)}</h1>"]
    if recipe.get("description"):
        parts.append(f"<p>{escape(str(recipe['description']))}</p>")
    tiles = [
        f'<div class="tile"><span class="soft">{title}</span><b>{short_number(value)}</b></div>'
        for title, value in ((escape(title_of(key)), value) for key, value in scores.items())
    ]
    if tiles:
        parts.append(f'<div class="tiles">{"".join(tiles)}</div>')
    parts.append(
        f'<p class="verdict">{escape(_verdict(bool(final), scores, result, evaluated, records))}</p>'
    )
    if result.get("protocol"):
        parts.append(f'<p class="soft">Protocol: {escape(str(result["protocol"]))}</p>')
    return f"<header>{''.join(parts)}</header>"


def _verdict(
    final: bool, scores: Record, result: Record, evaluated: list[Record], records: list[Record]
) -> str:
    """For example: "Final scores: FG-ARI 0.9951, MSE 0.0004. 50000 steps in 1 h 23 min."."""
    listed = ", ".join(f"{title_of(key)} {short_number(value)}" for key, value in scores.items())
    if final:
        words = f"Final scores: {listed}."
    elif listed:
        words = f"Scores so far, at step {evaluated[-1]['step']}: {listed}."
    else:
        words = "No scores yet."
    if records:
        words += f" {records[-1]['step']} steps"
        seconds = result.get("wall_seconds", records[-1].get("seconds"))
        words += f" in {_duration(float(seconds or 0))}." if _is_drawn(seconds) else "."
    return words


def _curves(trained: list[Record], evaluated: list[Record]) -> str:
    names = dict.fromkeys(key for record in evaluated for key in _scores(record))
    main = [_chart(trained, "loss", logarithmic=True), *(_chart(evaluated, name) for name in names)]
    further = "".join(_chart(trained, name) for name in FURTHER_CURVES)
    if not any(main) and not further:
        return ""
    more = f'<details><summary>More curves</summary><div class="charts">{further}</div></details>'
    shown = f'<h2>Curves over training steps</h2><div class="charts">{"".join(main)}</div>'
    return f"<section>{shown}{more if further else ''}</section>"


def _chart(records: list[Record], key: str, *, logarithmic: bool = False) -> str:
    points = [(record["step"], record[key]) for record in records if _is_drawn(record.get(key))]
    drawing = line_chart(points, name=title_of(key), logarithmic=logarithmic)
    scale = ' <span class="soft">logarithmic</span>' if logarithmic else ""
    return f'<figure class="chart">{escape(title_of(key))}{scale}{drawing}</figure>' if drawing else ""


def _images(run_folder: Path) -> str:
    """`latest.png`, then `figures/` by name, with the name as caption. Symbolic links are skipped: they may
    point to private images."""
    folder = run_folder / "figures"
    paths = [run_folder / "latest.png", *([] if folder.is_symlink() else sorted(folder.glob("*")))]
    figures = []
    for path in paths:
        kind = IMAGE_TYPES.get(path.suffix.lower())
        content = read_plain(path) if kind else None
        if content is None:
            continue
        data = base64.b64encode(content).decode("ascii")
        caption = escape(path.stem.replace("_", " "))
        image = f'<img src="data:{kind};base64,{data}" alt="{caption}">'
        figures.append(f'<figure class="image">{image}<figcaption>{caption}</figcaption></figure>')
    return f"<section><h2>Images</h2>{''.join(figures)}</section>" if figures else ""


def _table(heading: str, values: Mapping[str, Any]) -> str:
    """Names and values as in the file, text without quotation marks."""
    rows = [
        f"<tr><th>{escape(str(key))}</th>"
        f"<td>{escape(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))}</td></tr>"
        for key, value in values.items()
    ]
    return f"<section><h2>{heading}</h2><table>{''.join(rows)}</table></section>" if rows else ""
