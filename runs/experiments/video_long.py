"""A long video to its end: memory, speed, progress, result files and tracks of `objecthood predict`.

    OMP_NUM_THREADS=1 python runs/experiments/video_long.py --frames 10000
    OMP_NUM_THREADS=2 python runs/experiments/video_long.py --frames 10000 --name video-long-two-threads

Generates a clip in which the camera and two objects move, runs the command on it as a process of its own, and
writes results/NAME.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from objecthood.data.io.video_file import VideoFile, VideoWriter
from objecthood.runtime.environment import describe

RESULTS = Path(__file__).resolve().parents[2] / "results"
PROTOCOL = (
    "objecthood predict long.mp4 with the model `video`, a generated clip of {side} x {side} pixels in which "
    "camera and two discs move, threads as in `machine`, shared cores; in each row what the process had used "
    "at a line of its progress: frames processed (half counted when read), CPU seconds, megabytes resident "
    "now and at most, open files, threads, processes below it, seconds left as the line says, and the "
    "seconds it took; tracks: for each disc the share of frames with a slot at its centre, the slots by "
    "number of frames, changes of slot from one such frame to the next, and the mean intersection over union"
)
RADIUS = 13
Centre: TypeAlias = tuple[float, float]


def centres(number: int, side: int) -> tuple[Centre, Centre]:
    """Centres (x, y) of both discs in a frame, in pixels; they never touch."""
    angle, unit = number * 2 * math.pi, side / 128
    first = 34 + 12 * math.cos(angle / 47), 64 + 30 * math.sin(angle / 71)
    second = 94 + 12 * math.cos(angle / 59), 64 - 30 * math.sin(angle / 67)
    return (first[0] * unit, first[1] * unit), (second[0] * unit, second[1] * unit)


def texture(side: int, seed: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Noise of three scales around a colour, uint8 [side, side, 3]."""
    generator, image = np.random.default_rng(seed), np.full((side, side, 3), colour, float)
    for coarse, amount in ((16, 30), (6, 30), (2, 20)):
        small = generator.normal(size=(side // coarse + 2,) * 2 + (3,)) * amount + 128
        large = Image.fromarray(small.clip(0, 255).astype(np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        image += np.asarray(large, float) - 128
    return image.clip(0, 255).astype(np.uint8)


def write_clip(path: Path, frames: int, side: int) -> None:
    """The clip: the camera pans over a wide background, and the discs move on their own."""
    world = texture(2 * side, 0, (110, 130, 100))
    discs = [texture(side // 2, 1, (190, 90, 70)), texture(side // 2, 2, (70, 90, 190))]
    radius = RADIUS * side / 128
    y, x = np.mgrid[:side, :side]
    with VideoWriter(path, (side, side), Fraction(25)) as writer:
        for number in range(frames):
            left = round(side / 2 * (1 + 0.9 * math.sin(number * 2 * math.pi / 311)))
            top = round(side / 2 * (1 + 0.9 * math.sin(number * 2 * math.pi / 397)))
            frame = world[top : top + side, left : left + side].copy()
            for disc, (across, down) in zip(discs, centres(number, side), strict=True):
                inside = (x - across) ** 2 + (y - down) ** 2 < radius**2
                start = side // 4 - round(across), side // 4 - round(down)
                frame[inside] = disc[y[inside] + start[1], x[inside] + start[0]]
            writer.write(frame)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, default=10_000, help="length of the clip")
    parser.add_argument("--side", type=int, default=128, help="height and width of the clip in pixels")
    parser.add_argument("--name", default="video-long", help="of the result")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clip, out = Path(folder) / "long.mp4", Path(folder) / "found"
        write_clip(clip, arguments.frames, arguments.side)
        rows, wall = predicted(clip, out)
        result = {
            "name": arguments.name,
            "protocol": PROTOCOL.format(side=arguments.side),
            "frames": arguments.frames,
            "wall_seconds": round(wall, 1),
            "rows": rows,
            "outputs": outputs(out, arguments.frames, arguments.side),
            "tracks": tracks(out / "long-masks", arguments.frames, arguments.side),
            "machine": describe(),
        }
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("wall_seconds", "outputs", "tracks")}, indent=1))


def predicted(clip: Path, out: Path) -> tuple[list[dict[str, Any]], float]:
    """What the process had used at about 25 of its lines of progress, and the seconds of the whole."""
    words = [sys.executable, "-m", "objecthood", "predict", str(clip), "--out", str(out)]
    begun, rows = time.monotonic(), []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            if "s left" in line:
                step, left = line.split()[1], line.split()[-3]
                now = {"frames": int(step.split("/")[0]), "seconds": time.monotonic() - begun}
                rows.append(now | usage(process.pid) | {"seconds_left": int(left)})
    wall = time.monotonic() - begun
    if process.returncode:
        raise SystemExit(f"the command ended with {process.returncode}")
    for row in rows:
        row["seconds_taken"] = round(wall - row.pop("seconds"))
    return rows[:: max(len(rows) // 25, 1)] + rows[-1:], wall


def usage(pid: int) -> dict[str, float]:
    """CPU seconds, megabytes, open files, threads and children of a process."""
    place = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines())
    ticks = (place / "stat").read_text().rpartition(")")[2].split()[11:13]
    children = sum(len(task.read_text().split()) for task in place.glob("task/*/children"))
    return {
        "cpu_seconds": round(sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"), 2),
        "megabytes": int(status["VmRSS"].split()[0]) // 1024,
        "peak_megabytes": int(status["VmHWM"].split()[0]) // 1024,
        "open_files": len(list((place / "fd").iterdir())),
        "threads": int(status["Threads"]),
        "children": children,
    }


def outputs(out: Path, frames: int, side: int) -> dict[str, Any]:
    """The number of frames in each kind of result; AssertionError where kinds disagree."""
    overlay = VideoFile(out / "long-overlay.mp4")
    assert overlay.size == (side, side)
    names = sorted(file.name for file in (out / "long-masks").iterdir())
    assert names == [f"{number:06d}.png" for number in range(frames)], "a mask for every frame, nothing else"
    with (out / "long-tracks.csv").open() as file:
        rows = list(csv.DictReader(file))
    facts = json.loads((out / "long-tracks.json").read_text())
    assert [[float(row[key]) for key in ("frame", "slot", "x", "y")] for row in rows] == [
        [entry[0], entry[2], entry[4], entry[5]] for entry in facts["tracks"]
    ], "the same rows"
    boxes = [line.split(",") for line in (out / "long-tracks.txt").read_text().splitlines()]
    return {
        "overlay": sum(1 for _ in overlay),
        "masks": len(names),
        "csv": len({row["frame"] for row in rows}),
        "json": facts["frames"],
        "mot": len({box[0] for box in boxes}),
        "others": sorted(file.name for file in out.iterdir() if not file.name.startswith("long-")),
    }


def tracks(folder: Path, frames: int, side: int) -> list[dict[str, Any]]:
    """Consistency of the slot of each object over the whole clip (`PROTOCOL`)."""
    y, x = np.mgrid[:side, :side]
    held: tuple[list[int], list[int]] = [], []
    overlap: tuple[list[float], list[float]] = [], []
    for number in range(frames):
        with Image.open(folder / f"{number:06d}.png") as image:
            labels = np.asarray(image)
        for index, (across, down) in enumerate(centres(number, side)):
            slot = int(labels[round(down), round(across)])
            if slot:
                disc = (x - across) ** 2 + (y - down) ** 2 < (RADIUS * side / 128) ** 2
                held[index].append(slot)
                overlap[index].append(
                    np.count_nonzero(disc & (labels == slot)) / np.count_nonzero(disc | (labels == slot))
                )
    return [
        {
            "found": len(slots) / frames,
            "slots": Counter(slots).most_common(),
            "changes": sum(one != other for one, other in zip(slots, slots[1:], strict=False)),
            "iou": float(np.mean(ious)) if ious else 0.0,
        }
        for slots, ious in zip(held, overlap, strict=True)
    ]


if __name__ == "__main__":
    main()
