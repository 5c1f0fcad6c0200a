"""The tables of texture scenes: scores without learning on every level (docs/data.md), and texture layers
beside what needs no training (docs/methods/textures.md)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from published import spread

from objecthood.analysis.floors import TITLES

RESULTS = Path(__file__).resolve().parents[2] / "results"


def floors_by_level() -> str:
    """A row for each level with the foreground ARI of every baseline, and how they were scored."""
    found = json.loads((RESULTS / "texture-floors.json").read_text())
    shown = [floor for floor in TITLES if floor in found["levels"]["solid"]]
    lines = ["| level | " + " | ".join(TITLES[floor] for floor in shown) + " |"]
    lines.append("| --- |" + " ---: |" * len(shown))
    for level, floors in found["levels"].items():
        cells = [f"{floors[floor]['fg_ari']['mean']:.3f}" for floor in shown]
        lines.append(f"| {level} | " + " | ".join(cells) + " |")
    machine = found["machine"]
    note = (
        f"FG-ARI; {found['recipe']['test_scenes']} test scenes per level, {found['recipe']['num_slots']} "
        f"slots; k-means and untrained models: mean over {len(found['seeds'])} seeds. "
        f"{found['cpu_seconds']:.0f} CPU seconds, {machine['processor']}, commit "
        f"{machine['commit'].rstrip('+')}."
    )
    return "\n".join([*lines, "", note, ""])


KNOWN = ", at most as many clusters as surfaces"
ROWS = {
    "statistics_components": TITLES["statistics_components"],
    "statistics_kmeans": TITLES["statistics_kmeans"],
    "statistics_kmeans_position": TITLES["statistics_kmeans_position"],
    "statistics_kmeans_known": TITLES["statistics_kmeans"] + KNOWN,
    "statistics_kmeans_position_known": TITLES["statistics_kmeans_position"] + KNOWN,
    "untrained": "texture layers, untrained label field",
}


def layers() -> str:
    """Texture layers and their floors by level."""
    colours = json.loads((RESULTS / "texture-floors.json").read_text())["levels"]
    found = json.loads((RESULTS / "texture-layers-floors.json").read_text())["levels"]
    lines = ["| level |  | FG-ARI | ARI | mBO | CPU s |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    names = ("fg_ari", "ari", "mbo")
    for level, floors in found.items():
        best = max(
            (floor for floor in TITLES if floor in colours[level]),
            key=lambda floor: colours[level][floor]["fg_ari"]["mean"],
        )
        cells = [f"{colours[level][best][name]['mean']:.3f}" for name in names]
        lines.append(
            f"| {level} | best floor without these statistics: {TITLES[best]} | {' | '.join(cells)} | - |"
        )
        for floor, title in ROWS.items():
            cells = [f"{floors[floor][name]:.3f}" for name in names]
            lines.append(f"| {level} | {title} | {' | '.join(cells)} | - |")
        runs = [json.loads(file.read_text()) for file in sorted(RESULTS.glob(f"texture-{level}-seed*.json"))]
        if runs:
            cells = [spread([run["scores"][name] for run in runs]) for name in names]
            cost = statistics.median(run["cpu_seconds"] for run in runs)
            seeds = f"{len(runs)} seed{'s' * (len(runs) > 1)}"
            lines.append(
                f"| {level} | **texture layers** (`textures`), {seeds} | {' | '.join(cells)} | {cost:.0f} |"
            )
            wrong = RESULTS / f"texture-{level}-4-seed0.json"
            if wrong.exists():
                scores = json.loads(wrong.read_text())["scores"]
                cells = [f"{scores[name]:.3f}" for name in names]
                lines.append(
                    f"| {level} | the same, 4 dominant frequencies, 1 seed | {' | '.join(cells)} | - |"
                )
        if "fresh" in floors:
            cells = [f"{floors['fresh'][name]:.3f}" for name in names]
            title = "the same, seed 0, on 320 further scenes"
            lines.append(f"| {level} | {title} | {' | '.join(cells)} | - |")
    return "\n".join([*lines, ""])
