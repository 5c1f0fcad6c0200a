"""The tables of docs/methods/moving-objects.md, from results/davis.json, davis-flows.json and
video-generated.json; `tables.py` writes them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLIPS = {
    "moving-sprites": ("[`moving-sprites`](video.md)", "moving-sprites"),
    "clips-slots-textured": (
        "[moving sprites, textured background, moving camera](feature-video.md)",
        "clips-slots-textured-motion-four-frames",
    ),
    "camouflage": ("[`camouflage`](video.md), random dots", "camouflage"),
}
"""Generated clips: how the page calls them, and the runs of the model trained on them."""


def davis() -> dict[str, Any]:
    return json.loads((ROOT / "results" / "davis.json").read_text())


def verdict() -> str:
    """The gain over the best baseline, and where it lies."""
    result = davis()
    mean, best, method = result["mean"], result["best_baseline"], result["method"]
    gain, (low, high) = result["gain"]["J"]["mean"], result["gain"]["J"]["interval"]
    better = sum(row[method]["J"] > row[best]["J"] for row in result["sequences"].values())
    return (
        f"**On DAVIS-2016 appearance adds {gain:.2f} J to motion alone with the same post-processing**: "
        f"{mean[method]['J']:.3f} against {mean[best]['J']:.3f} (95 % interval of the difference {low:.2f} "
        f"to {high:.2f}, bootstrap over sequences; better on {better} of {len(result['sequences'])}).\n"
    )


def stages() -> str:
    """Mean scores of baselines, parts and the method."""
    result = davis()
    rows = [["", "J", "F", "J, all frames"], ["---", "---:", "---:", "---:"]]
    for name, row in result["mean"].items():
        cells = [f"{row[kind]:.3f}" for kind in ("J", "F", "J_all")]
        title = titled(name)
        rows.append([f"**{title}**" if name == result["method"] else title, *cells])
    return "\n".join([*table(rows), ""])


def sequences() -> str:
    """J of every sequence, best gain first, and F of the method."""
    result = davis()
    method, best = result["method"], result["best_baseline"]
    shown = [best, "appearance, adapted", "motion and appearance, not adapted", method]
    rows = [["sequence", "fold", *(f"J: {titled(name)}" for name in shown), f"F: {method}"]]
    rows.append(["---"] * 2 + ["---:"] * 5)
    ordered = sorted(result["sequences"].items(), key=lambda item: item[1][best]["J"] - item[1][method]["J"])
    for name, row in ordered:
        fold = next(number for number, names in enumerate(result["folds"]) if name in names)
        cells = [f"{row[key]['J']:.3f}" for key in shown]
        rows.append([name, str(fold), *cells, f"{row[method]['F']:.3f}"])
    return "\n".join([*table(rows), ""])


def flows() -> str:
    """J and cost of the baseline with other optical flows; the first is the package's."""
    found = json.loads((ROOT / "results" / "davis-flows.json").read_text())["rows"]
    first = next(iter(found.values()))["sequences"]
    rows = [["flow and camera", "J", "sequences better, worse", "CPU ms per frame"], ["---"] + ["---:"] * 3]
    for name, row in found.items():
        gains = [row["sequences"][key] - value for key, value in first.items()]
        counts = f"{sum(gain > 0 for gain in gains)}, {sum(gain < 0 for gain in gains)}"
        cells = [f"{row['J']:.3f}", counts if any(gains) else "", f"{1000 * row['cpu_seconds_a_frame']:.0f}"]
        rows.append([name, *cells])
    return "\n".join([*table(rows), ""])


def generated() -> str:
    """`video` on generated clips, and models trained on these clips: bundled weights, else runs."""
    result = json.loads((ROOT / "results" / "video-generated.json").read_text())
    kinds = {
        "video_fg_ari": "video FG-ARI",
        "video_mbo": "video mBO",
        "video_ari": "video ARI",
        "id_switch_rate": "ID switches",
    }
    rows = [["clips", *kinds.values()], ["---"] + ["---:"] * len(kinds)]
    for name, (title, runs) in CLIPS.items():
        files = (ROOT / "results").glob(f"{runs}-seed*.json")
        trained = [result["bundled"][name]] if name in result["bundled"] else []
        trained = trained or [json.loads(file.read_text())["scores"] for file in sorted(files)]
        means = {kind: statistics.mean(scores[kind] for scores in trained) for kind in kinds}
        cells = [f"{result['scores'][name][kind]:.3f} / {means[kind]:.3f}" for kind in kinds]
        rows.append([title, *cells])
    return "\n".join([*table(rows), ""])


def titled(name: str) -> str:
    """A stored name of a row as the page prints it."""
    return name.replace("along paths", "averaged along trajectories").replace("colours ", "colour weight ")


def table(rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in rows]


def blocks() -> dict[str, Any]:
    """Content by marker."""
    return {
        "verdict": verdict,
        "stages": stages,
        "sequences": sequences,
        "flows": flows,
        "generated": generated,
    }
