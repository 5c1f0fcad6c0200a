"""The tables of docs/methods/video.md, feature-video.md and motion-grouping.md, from results/*.json;
`runs/pages/tables.py` writes them.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from floors_page import floor_rows

ROOT = Path(__file__).resolve().parents[2]
TITLES = {
    "video_fg_ari": "video FG-ARI",
    "video_ari": "video ARI",
    "frame_fg_ari": "frame FG-ARI",
    "frame_ari": "frame ARI",
    "id_switch_rate": "ID switches",
    "motion_accuracy": "moving/static accuracy",
}
FEATURE_TITLES = {
    "video_fg_ari": "video FG-ARI",
    "video_mbo": "video mBO",
    "video_ari": "video ARI",
    "frame_fg_ari": "frame FG-ARI",
    "id_switch_rate": "ID switches",
}
LOSSES = {
    "clips-slots-textured-motion-four-frames": "**features and motion** (`clips-slots`)",
    "clips-slots-textured-motion-four-frames-similarity": "features and motion, temporal similarity",
    "clips-slots-textured-motion": "features and motion (second recipe)",
    "clips-slots-textured-motion-contrast": "features and motion (second recipe), slot contrast",
    "clips-slots-textured": "features alone (first recipe)",
    "clips-slots-textured-contrast": "features alone (first recipe), slot contrast",
    "clips-slots-textured-similarity": "features alone (first recipe), temporal similarity",
}
"""Published names of the runs, by what slots reconstruct and what is added to the loss."""
TERMS = {
    "frames seen": "input: frames",
    "motion found by matching seen": "input: block-matched motion",
    "in every frame, each alone": "in each frame, frames independent",
    "start unconditional": "unconditional initial slots",
}
"""Words of stored protocols, and those of the page."""
ROWS = {
    "slots, speed where the main one is": "fast pixels near the main slot",
    "where most of it is": "near the main region",
    "along paths": "averaged along trajectories",
    "two means of flow": "2-means of the flow",
    "finished": "post-processed",
}
"""Words of stored rows of DAVIS, and those of the page."""
TOOLKIT = "mean J without first and last frames (DAVIS's toolkit)"


def generated() -> str:
    """Clips made here: every run, and the same weights frame by frame."""
    rows = [["", "seeds", *TITLES.values(), "CPU s"], ["---"] * (len(TITLES) + 3)]
    runs: dict[str, list[dict]] = {}
    for file in sorted((ROOT / "results").glob("*-seed*.json")):
        result = json.loads(file.read_text())
        if set(TITLES) <= set(result["scores"]) and not file.stem.startswith("contrast-"):
            runs.setdefault(file.stem.rsplit("-seed", 1)[0], []).append(result)
    for name, results in runs.items():
        cost = f"{statistics.median(result['cpu_seconds'] for result in results):.0f}"
        rows.append([f"`{name}`", *spread([result["scores"] for result in results]), cost])
        alone = ROOT / "results" / f"{name}-frame-by-frame.json"
        if alone.exists():
            scores = list(json.loads(alone.read_text())["scores"].values())
            rows.append([f"`{name}`, the same weights frame by frame", *spread(scores), "-"])
        for floor, *scores in floor_rows(name, list(TITLES)):
            rows.append([floor, "-", *scores, "-"])
    notes = [f"- `{name}`: {protocol(results[0])}." for name, results in runs.items()]
    return "\n".join([*table(rows), "", *notes, ""])


def protocol(result: dict) -> str:
    """The part of the protocol that differs between recipes, in the field's terms."""
    words = result["protocol"].split(";")[0]
    for old, new in TERMS.items():
        words = words.replace(old, new)
    return words


def of_features() -> str:
    """Slots over frozen features: each loss, over seeds, and the floors."""
    runs: dict[str, list[dict]] = {}
    for file in sorted((ROOT / "results").glob("clips-slots-textured*-seed*.json")):
        runs.setdefault(file.stem.rsplit("-seed", 1)[0], []).append(json.loads(file.read_text()))
    rows = [["", "seeds", *FEATURE_TITLES.values(), "CPU s"], ["---", *["---:"] * (len(FEATURE_TITLES) + 2)]]
    for name, title in LOSSES.items():
        if results := runs.get(name):
            cost = f"{statistics.median(result['cpu_seconds'] for result in results):.0f}"
            rows.append([title, *spread([result["scores"] for result in results], FEATURE_TITLES), cost])
    for floor, *scores in floor_rows("clips-slots-textured", list(FEATURE_TITLES)):
        rows.append([floor, "-", *scores, "-"])
    first = next(iter(runs.values()))[0]
    return "\n".join([*table(rows), "", f"{protocol(first).capitalize()}.", ""])


def spread(scores: list[dict[str, float]], titles: dict[str, str] = TITLES) -> list[str]:
    """How many, then mean and sample deviation of each score."""
    cells = [str(len(scores))]
    for key in titles:
        values = [score[key] for score in scores]
        text = f"{statistics.mean(values):.3f}"
        cells.append(text + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""))
    return cells


def davis() -> dict:
    return json.loads((ROOT / "results" / "davis2016.json").read_text())


def verdict() -> str:
    """What slots add to the best baseline with the same post-processing."""
    result = davis()
    mean = result["mean"]
    baselines = [name for name in mean if name.startswith("affine") and name.endswith("finished")]
    slots = [name for name in mean if name.startswith("slots") and name.endswith("finished")][-1]
    best = max(baselines, key=lambda name: mean[name])
    plain = max(mean[name] for name in mean if not name.startswith("slots") and not name.endswith("finished"))
    return (
        f"**With the same post-processing, slots add {mean[slots] - mean[best]:.3f} J to a baseline without "
        f"slots**, an affine model of the camera: {mean[slots]:.3f} against {mean[best]:.3f}. Without "
        f"post-processing, slots score below the baseline: {mean['slots']:.3f} against {plain:.3f}. Whether "
        "slots help on real video remains open.\n"
    )


def stages() -> str:
    """Mean J of every stage and baseline, with the deviation over seeds where there is one; beside it the J
    of DAVIS's toolkit, without first and last frames, if the result holds it."""
    result = davis()
    columns = {"mean J": result}
    if "skip_ends" in result:
        columns |= {TOOLKIT: result["skip_ends"]}
    rows = [["", *columns], ["---"] * (1 + len(columns))]
    for name in result["mean"]:
        trained = name.startswith("slots") and len(result["seeds"]) > 1
        cells = [
            f"{column['mean'][name]:.3f}" + (f" ± {column['deviation'][name]:.3f}" if trained else "")
            for column in columns.values()
        ]
        rows.append([titled(name), *cells])
    return "\n".join([*table(rows), ""])


def sequences() -> str:
    """J of every sequence, mean over seeds, best first; of the last method also the toolkit's, if there."""
    result = davis()
    finished = [name for name in result["mean"] if name.endswith("finished")]
    last, shown = finished[-1], ["affine camera, Otsu", *finished]
    toolkit = result.get("skip_ends")
    rows = [["sequence", "fold", *map(titled, shown), *([f"the same, {TOOLKIT}"] if toolkit else [])]]
    rows.append(["---"] * len(rows[0]))
    for name, row in sorted(result["sequences"].items(), key=lambda item: -item[1][last]):
        fold = next(number for number, names in enumerate(result["folds"]) if name in names)
        values = [row[key] for key in shown] + ([toolkit["sequences"][name][last]] if toolkit else [])
        rows.append([name, str(fold), *(f"{value:.3f}" for value in values)])
    return "\n".join([*table(rows), ""])


def titled(name: str) -> str:
    """A stored name of a row as the page prints it."""
    for stored, printed in ROWS.items():
        name = name.replace(stored, printed)
    return name


def table(rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]
