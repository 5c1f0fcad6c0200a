"""The tables of docs/methods/moving-objects.md, from results/davis.json, davis-flows.json,
video-generated.json, video-speed.json, video-long.json and floors.json; `tables.py` writes them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from floors_page import floor_rows

ROOT = Path(__file__).resolve().parents[2]
CLIPS = {
    "moving-sprites": "[`moving-sprites`](video.md)",
    "clips-slots-textured": "[moving sprites, textured background, moving camera](feature-video.md)",
    "camouflage": "[`camouflage`](video.md), random dots",
}
"""Generated clips, and how the page calls them."""
TRAINED = {"clips-slots-textured": "clips-slots-textured-motion-four-frames"}
"""Runs on clips for which no weights are bundled."""


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
    """`video` on generated clips, models trained on these clips, and the best floor of each score."""
    result = json.loads((ROOT / "results" / "video-generated.json").read_text())
    kinds = {
        "video_fg_ari": "video FG-ARI",
        "video_mbo": "video mBO",
        "video_ari": "video ARI",
        "id_switch_rate": "ID switches",
    }
    rows = [["clips", "", *kinds.values()], ["---", "---"] + ["---:"] * len(kinds)]
    for name, title in CLIPS.items():
        trained = result["bundled"].get(name) or mean_of_runs(TRAINED[name])
        for who, scores in (("`video`", result["scores"][name]), ("trained on them", trained)):
            rows.append([title, who, *(f"{scores[kind]:.3f}" for kind in kinds)])
            title = ""
        floors = [scores for _, *scores in floor_rows(name, list(kinds))]
        best = [max(column) for column in zip(*floors, strict=True)]
        rows.append(["", "best floor of each score", *best[:-1], "-"])
    return "\n".join([*table(rows), ""])


def mean_of_runs(name: str) -> dict[str, float]:
    """Mean scores over seeds."""
    files = sorted((ROOT / "results").glob(f"{name}-seed*.json"))
    runs = [json.loads(file.read_text())["scores"] for file in files]
    return {kind: statistics.mean(scores[kind] for scores in runs) for kind in runs[0]}


def speed() -> str:
    """Seconds of a real video at 480p, one thread and two."""
    result = json.loads((ROOT / "results" / "video-speed.json").read_text())
    rows = [["threads", "seconds", "frames per second", "CPU s", "peak memory"], ["---:"] * 5]
    for row in result["rows"]:
        rate, memory = row["frames"] / row["wall_seconds"], f"{row['peak_megabytes'] / 1000:.2f} GB"
        rows.append(
            [row["threads"], f"{row['wall_seconds']:.1f}", f"{rate:.2f}", f"{row['cpu_seconds']:.1f}", memory]
        )
    first, machine = result["rows"][0], result["machine"]
    size = " x ".join(map(str, first["size"]))
    note = (
        f"`{first['sequence']}`, {first['frames']} frames of {size} pixels, each row a run, from the start "
        f"of the command to the last result file; {machine['processor']}, {machine['cores']} cores."
    )
    return "\n".join([*table(rows), "", note, ""])


def long_video() -> str:
    """Memory, speed and slots over a long video."""
    result = json.loads((ROOT / "results" / "video-long.json").read_text())
    rows, last, frames = result["rows"], result["rows"][-1], result["frames"]
    reached = next(row["frames"] for row in rows if row["peak_megabytes"] == last["peak_megabytes"])
    half = next(row for row in rows if 2 * row["frames"] > frames)
    changes = sum(track["changes"] for track in result["tracks"])
    overlaps = " and ".join(f"{track['iou']:.2f}" for track in result["tracks"])
    seconds, files = last["cpu_seconds"], max(row["open_files"] for row in rows)
    threaded = json.loads((ROOT / "results" / "video-long-two-threads.json").read_text())
    peak = threaded["rows"][-1]["peak_megabytes"]
    at_peak = next(row["frames"] for row in threaded["rows"] if row["peak_megabytes"] == peak)
    third = threaded["frames"] / 3
    thirds = [
        statistics.mean(row["megabytes"] for row in threaded["rows"][:-1] if row["frames"] // third == part)
        for part in range(3)
    ]
    early, middle, late = (f"{megabytes / 1000:.2f}" for megabytes in thirds)
    return (
        f"{frames:,} generated frames, in which the camera and two discs move, took {seconds:,.0f} CPU "
        f"seconds on one thread ({seconds / frames:.2f} s per frame). Memory did not grow: the peak of "
        f"{last['peak_megabytes'] / 1000:.2f} GB was reached within the first {reached:,} frames, with at "
        f"most {files} open files. The two discs changed their slots {changes} times, with a mean "
        f"intersection over union of {overlaps}. At {half['frames']:,} frames the progress line predicted "
        f"{half['seconds_left']:,} s to go, and it took {half['seconds_taken']:,} s, on a machine with "
        "changing load ([video-long.json](../../results/video-long.json)). With two threads, "
        f"{threaded['frames']:,} frames peaked at {peak / 1000:.2f} GB within the first {at_peak:,}, and "
        f"used {early}, {middle} and {late} GB on average in their first, second and last third "
        "([video-long-two-threads.json](../../results/video-long-two-threads.json)).\n"
    )


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
        "speed": speed,
        "long": long_video,
    }
