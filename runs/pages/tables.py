"""Write the tables of README.md and of the pages in docs/ from results/*.json, between markers such as
`<!-- results -->` and `<!-- /results -->`, and the curves beside them.

    python runs/pages/tables.py            # rewrite
    python runs/pages/tables.py --check    # exit 1 if a page or a curve is not what the results say
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import ablations_page
import contrast_page
import demo_page
import leaderboard_page
import objects_page
import protocols_page
import reliability_page
import set_page
import speed_page
import texture_page
import textured_page
import unmodified_page
import video_page
import weights_page
from floors_page import floor_rows
from published import ROOT, as_table, by_recipe, read, spread

from objecthood.recipes.score_names import by_restarts
from objecthood.visualize.charts import score_curves

_COLUMNS = ("fg_ari", "ari", "mbo", "miou")
_TITLES = ("FG-ARI", "ARI", "mBO", "mIoU")
_SIGNS = (
    ("attention_entropy", "attention entropy"),
    ("used_slots", "slots used"),
    ("shared_objects", "objects sharing a slot"),
    ("split_objects", "objects in pieces"),
    ("objects_in_background", "objects in the background slot"),
    ("background_split", "images with a split background"),
)


def main() -> int:
    written = {file: fill(file, blocks) for file, blocks in PAGES.items()} | curves()
    stale = [file for file, text in written.items() if not file.exists() or file.read_text() != text]
    if "--check" in sys.argv[1:]:
        print(*(f"{file.relative_to(ROOT)} is not what the results say" for file in stale), sep="\n", end="")
        return int(bool(stale))
    for file in stale:
        file.write_text(written[file])
    return 0


def fill(page: Path, blocks: dict[str, Callable[[], str]]) -> str:
    """The page with new content between each pair of markers."""
    text = page.read_text()
    for name, make in blocks.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        match = block.search(text)
        assert match, f"{page} lacks the markers of {name}"
        text = text[: match.end(1)] + make() + text[match.start(2) :]
    return text


def tables() -> str:
    """The table of all multi-seed results with their floors, then how each score was taken."""
    runs = by_recipe()
    head = ["", *_TITLES, *(f"{title}, best of 8" for title in _TITLES[:3]), "worst seed", "seeds", "CPU s"]
    rows = [
        line for name, results in runs.items() for line in (row(name, results), *floor_rows(name, _COLUMNS))
    ]
    notes = [f"- `{name}`: {taken(results)}. Commit {commits(results)}." for name, results in runs.items()]
    rows = [[*cells, *["-"] * (len(head) - len(cells))] for cells in rows]
    return as_table(head, rows) + "\n" + "\n".join([*notes, ""])


def summary() -> str:
    """A row for every recipe of object discovery: one restart, the better floor of colour, costs."""
    floors = read("floors.json")
    rows = []
    for name, results in by_recipe().items():
        scores = [over_seeds(results, column, best=False) for column in _COLUMNS[:3]]
        best = [
            f"{max(floors[name][kind][column] for kind in ('components', 'kmeans')):.3f}"
            for column in _COLUMNS[:2]
        ]
        cost = f"{statistics.median(result['cpu_seconds'] for result in results):.0f}"
        rows.append([f"`{name}`", *scores, " / ".join(best), str(len(results)), cost])
    return as_table(["", *_TITLES[:3], "floor: FG-ARI / ARI", "seeds", "CPU s"], rows)


_PHOTO_SCORES = ("fg_ari", "mbo_i", "mbo_c")


def photographs() -> str:
    """Scores on photographs: the part on which settings were chosen, and the part used for no choice."""
    found = read("photographs.json")
    parts = {"select": "selection part", "report": "report part"}
    head = ["", *(f"{score}, {words}" for words in parts.values() for score in ("FG-ARI", "mBO_i", "mBO_c"))]
    rows = []
    for name, row in found["select"]["rows"].items():
        cells = [f"{100 * found[part]['rows'][name][score]:.1f}" for part in parts for score in _PHOTO_SCORES]
        title = row["title"].replace("and place", "and position")
        title = f"**{title}** (`photos`)" if name == "consensus" else title
        rows.append([title, *cells, f"{found['report']['rows'][name]['cpu_seconds']:.2f}"])
    trained: dict[str, list[list[dict]]] = {}
    for part in parts:
        for run in found[part]["runs"]:
            trained.setdefault(run["recipe"], [[] for _ in parts])[list(parts).index(part)].append(run)
    for recipe, runs in trained.items():
        cells = [spread([100 * run[score] for run in some], 1) for some in runs for score in _PHOTO_SCORES]
        cost = f"{statistics.median(run['training_cpu_seconds'] for run in runs[0]):.0f} CPU s"
        title = f"slots, trained (`{recipe}`, {len(runs[0])} seeds, {cost} each)"
        rows.append([title, *cells, f"{statistics.median(run['cpu_seconds'] for run in runs[1]):.2f}"])
    counts = " and ".join(f"{found[part]['photographs']} ({words})" for part, words in parts.items())
    slots, cost = found["report"]["slots"], found["report"]["cost_in_one_run"]["rows"]
    return (
        as_table([*head, "CPU s per image"], rows)
        + f"\nIn %. {counts} photographs of COCO; {found['report']['protocol']}. The nearest slot of another "
        f"photograph has an object's class for {100 * slots['nearest']:.0f} % of {slots['objects']} objects "
        f"(chance {100 * slots['chance']:.0f} %). Rows with objectness were timed on a slower machine than "
        f"the others; in one run, the consensus took {cost['consensus']:.2f} CPU s per image with objectness "
        f"and {cost['consensus-plain']:.2f} without.\n"
    )


def generalisation() -> str:
    """Scores on more objects than in training: means over seeds."""
    lines = []
    for file in sorted((ROOT / "results").glob("*-generalisation.json")):
        rows = json.loads(file.read_text())["rows"]
        seeds, name = len({row["seed"] for row in rows}), file.stem.removesuffix("-generalisation")
        lines += [f"`{name}`, {seeds} seed{'s' * (seeds > 1)}:", ""]
        lines += [
            "| test iterations | "
            + " | ".join(sorted({str(row["iterations"]) for row in rows}, key=int))
            + " |"
        ]
        lines += ["|" + " --- |" * (lines[-1].count("|") - 1)]
        for key, words in (("as_trained", "3 to 6 objects, 7 slots"), ("more", "7 to 10 objects, 11 slots")):
            for score, title in zip(_COLUMNS[:3], _TITLES, strict=False):
                by_iterations: dict[int, list[float]] = {}
                for row in rows:
                    by_iterations.setdefault(row["iterations"], []).append(row[key][score])
                means = [f"{statistics.mean(by_iterations[number]):.3f}" for number in sorted(by_iterations)]
                lines += ["| " + " | ".join([f"{title}, {words}", *means]) + " |"]
    return "\n".join([*lines, ""])


def row(name: str, results: list[dict]) -> list[str]:
    """Mean and deviation over seeds, of one restart and of the best of several; median cost of training."""
    worst = [score for result in results if (score := scored(result)[0].get("fg_ari")) is not None]
    cost = f"{statistics.median(result['cpu_seconds'] for result in results):.0f}"
    cells = [over_seeds(results, column, best=False) for column in _COLUMNS]
    cells += [over_seeds(results, column, best=True) for column in _COLUMNS[:3]]
    return [f"**`{name}`**", *cells, f"{min(worst):.3f}" if worst else "-", str(len(results)), cost]


def over_seeds(results: list[dict], column: str, *, best: bool) -> str:
    """Mean and deviation of a score of one restart, or of the best of several; "-" where it was not taken."""
    values = [scored(result)[best].get(column) for result in results]
    return "-" if None in values else spread(values)


def scored(result: dict) -> tuple[dict, dict]:
    """Scores of one restart, and of the best of several (empty where there was one)."""
    rows = by_restarts(result["scores"])
    return rows["one restart"], rows.get("best of 8", {})


def taken(results: list[dict]) -> str:
    """The part of the protocol that differs between recipes; docs/metrics.md defines the scores."""
    return results[0]["protocol"].split(";")[0]


def commits(results: list[dict]) -> str:
    return ", ".join(sorted({result["machine"]["commit"].rstrip("+") or "unknown" for result in results}))


def seeds() -> str:
    """Every run: its seed, scores, costs and commit."""
    rows = []
    for name, results in by_recipe().items():
        for result in results:
            cells = [
                over_seeds([result], column, best=best) for best in (False, True) for column in _COLUMNS[:3]
            ]
            costs = [f"{result['cpu_seconds']:.0f}", f"`{commits([result])}`"]
            rows.append([f"`{name}`", str(result["seed"]), *cells, *costs])
    best = [f"{title}, best of 8" for title in _TITLES[:3]]
    return as_table(["recipe", "seed", *_TITLES[:3], *best, "CPU s", "commit"], rows)


def starts() -> str:
    """FG-ARI over the number of restarts, best chosen by reconstruction error or labels; mean over seeds."""
    entries = read("starts.json")
    counts = list(next(iter(entries.values()))["seeds"][0]["best_painted"])
    rows = [
        [
            f"`{name}`",
            title,
            *(f"{statistics.mean(seed[key][count] for seed in entry['seeds']):.3f}" for count in counts),
        ]
        for name, entry in entries.items()
        for key, title in (
            ("best_painted", "lowest reconstruction error"),
            ("truly_best", "FG-ARI (needs labels)"),
        )
    ]
    return as_table(["recipe", "chosen by", *(f"of {count}" for count in counts)], rows, numbers=2)


def curves() -> dict[Path, str]:
    """Foreground ARI while training, mean over seeds, a curve a recipe; and scores over numbers of slots."""
    images, drawn = ROOT / "docs" / "images", {}
    for name, results in by_recipe().items():
        points = {
            title: [
                (steps[0]["step"], statistics.mean(step[column] for step in steps))
                for steps in zip(*(result["curve"] for result in results), strict=True)
            ]
            for column, title in zip(_COLUMNS[:3], _TITLES, strict=False)
        }
        drawn[images / "curves" / f"{name}.svg"] = score_curves(
            points, name=f"{name}: scores over steps", axis="steps"
        )
    points = {
        title: [(row["slots"], row["scores"][column]) for row in read("number-of-slots.json")["asked"]]
        for column, title in zip(_COLUMNS[:3], _TITLES, strict=False)
    }
    drawn[images / "slots-asked.svg"] = score_curves(points, name="scores over number of slots", axis="slots")
    return drawn


def other_scenes() -> str:
    """Weights times kinds of scenes: scores and failure rates; means over seeds."""
    rows: dict[tuple[str, str], list[dict]] = {}
    for row in read("clevr-like-scenes.json")["rows"]:
        scenes = row["scenes"] + (", merged background" if row["one_ground"] else "")
        rows.setdefault((row["weights"], scenes), []).append(row)
    cells = []
    for (weights, scenes), several in rows.items():
        mean = {
            key: {name: statistics.mean(row[key][name] for row in several) for name in several[0][key]}
            for key in ("scores", "summary")
        }
        cells.append([weights, scenes, str(len(several)), *measured(mean, _COLUMNS[:3], _SIGNS[2:])])
    head = ["trained on", "scored on", "seeds", *_TITLES[:3], *(title for _, title in _SIGNS[2:])]
    return as_table(head, cells, 2)


def pictures_of_curves() -> str:
    return "".join(
        f"**`{name}`**, {f'mean of {len(results)} seeds' if len(results) > 1 else 'one seed'}\n\n"
        f"![Validation scores of {name} during training](images/curves/{name}.svg)\n\n"
        for name, results in by_recipe().items()
    )


def number_of_slots() -> str:
    """One model run with other numbers of slots; then models trained with other numbers."""
    facts = read("number-of-slots.json")
    head = ["slots", *_TITLES[:3], *(title for _, title in _SIGNS[2:])]
    asked, trained = (
        as_table(head, [[str(row["slots"]), *measured(row, _COLUMNS[:3], _SIGNS[2:])] for row in rows], 0)
        for rows in (facts["asked"], facts["trained"])
    )
    return (
        f"One model, trained with {facts['trained_with']} slots for {facts['steps']:,} steps, run with other "
        f"numbers of slots ({facts['scenes']} test scenes, one seed):\n\n{asked}\nModels trained with these "
        f"numbers of slots, {facts['short_steps']} steps each (one seed):\n\n{trained}"
    )


def failures() -> str:
    """Scores and symptoms of the runs that were made to fail."""
    head = ["run", "CPU s", "MSE", *_TITLES[:2], *(title for _, title in _SIGNS)]
    rows = []
    for name, found in read("failures.json")["cases"].items():
        facts = {"scores": found["scores"], "summary": found["diagnosis"]["summary"]}
        costs = [f"`{name}`", f"{found['cpu_seconds']:.0f}", f"{found['scores']['mse']:.3f}"]
        rows.append(costs + measured(facts, _COLUMNS[:2], _SIGNS))
    return as_table(head, rows)


def measured(row: dict, scores: tuple[str, ...], signs: tuple[tuple[str, str], ...]) -> list[str]:
    """Scores with two digits, then signs: shares in percent."""
    cells = [f"{row['scores'][score]:.2f}" for score in scores]
    for sign, _ in signs:
        value = row["summary"][sign]
        plain = {"used_slots": f"{value:.1f}", "attention_entropy": f"{value:.2f}"}
        cells.append(plain.get(sign, f"{100 * value:.0f} %"))
    return cells


PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"weights": weights_page.readme},
    ROOT / "docs" / "results.md": {
        "results": lambda: tables(),
        "photographs": photographs,
        "generalisation": generalisation,
        "starts": starts,
        "textured": other_scenes,
        "curves": pictures_of_curves,
        "seeds": seeds,
    },
    ROOT / "docs" / "model-zoo.md": {
        "weights": weights_page.zoo_table,
        "zoo": weights_page.zoo,
        "videos": weights_page.videos,
        "zoo-videos": lambda: weights_page.zoo(is_video=True),
        "photos": weights_page.photographs,
    },
    ROOT / "docs" / "methods" / "autoencoder.md": {"scores": summary},
    ROOT / "docs" / "methods" / "unmodified.md": unmodified_page.blocks(),
    ROOT / "docs" / "methods" / "photographs.md": {
        "photos": weights_page.photographs,
        "fine": weights_page.small_objects,
        "exported": weights_page.exported_cost,
    },
    ROOT / "docs" / "methods" / "dinosaur.md": {"slots": weights_page.slots_of_photographs},
    ROOT / "docs" / "methods" / "set-prediction.md": set_page.blocks(),
    ROOT / "docs" / "speed.md": speed_page.blocks(),
    ROOT / "docs" / "demo.md": demo_page.blocks(),
    ROOT / "docs" / "methods" / "contrast.md": {
        "summary": contrast_page.summary,
        "found": contrast_page.found,
        "slots": contrast_page.slots,
        "known": contrast_page.known,
    },
    ROOT / "docs" / "leaderboard.md": {"board": leaderboard_page.board},
    ROOT / "docs" / "ablations.md": {"ablations": ablations_page.ablations},
    ROOT / "docs" / "reliability.md": reliability_page.blocks(),
    ROOT / "docs" / "methods" / "moving-objects.md": objects_page.blocks(),
    ROOT / "docs" / "methods" / "video.md": {"generated": video_page.generated},
    ROOT / "docs" / "methods" / "feature-video.md": {"features": video_page.of_features},
    ROOT / "docs" / "methods" / "motion-grouping.md": {
        "verdict": video_page.verdict,
        "stages": video_page.stages,
        "sequences": video_page.sequences,
    },
    ROOT / "docs" / "methods" / "textures.md": {"layers": texture_page.layers},
    ROOT / "docs" / "methods" / "center-votes.md": {"found": textured_page.found},
    ROOT / "docs" / "metrics.md": {"protocols": protocols_page.by_protocol},
    ROOT / "docs" / "data.md": {"texture": texture_page.floors_by_level},
    ROOT / "docs" / "how-many-slots.md": {"slots": number_of_slots},
    ROOT / "docs" / "when-slots-fail.md": {"failures": failures},
}
"""Content by page and marker."""

if __name__ == "__main__":
    sys.exit(main())
