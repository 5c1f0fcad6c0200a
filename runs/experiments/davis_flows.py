"""Which optical flow, and which model of the camera: the baseline without slots on DAVIS-2016.

    python runs/experiments/davis_flows.py ../shared/data/davis2016 --frames 20

Writes results/davis-flows.json: J of masks by Otsu's threshold of speed along paths, in the first frames of
every sequence, and the CPU time of motion fields. A row that is there already is kept, so that a stopped run
goes on; delete the file for a new one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objecthood import metrics
from objecthood.data.io.images import resize_image
from objecthood.data.published.davis import Davis2016
from objecthood.motion import masks as motion_masks
from objecthood.motion.fields import fields_of, flow_size
from objecthood.motion.optical_flow import import_cv2
from objecthood.runtime.environment import describe

RESULT = Path(__file__).resolve().parents[2] / "results" / "davis-flows.json"
PROTOCOL = (
    "first {frames} frames of 12 sequences; flow at 240 rows; J (intersection over union) at 480p of what "
    "is faster than Otsu's threshold both ways, speed averaged along paths, not finished; mean over frames "
    "without the first and the last, then over sequences; CPU seconds of all motion fields a frame"
)


def dis(preset: str, finest: int | None = None) -> Callable[[Any], Any]:
    """OpenCV's dense inverse search with a preset's scales, or down to another finest one."""

    def made(cv2: Any) -> Any:
        search = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{preset.upper()}"))
        if finest is not None:
            search.setFinestScale(finest)
        return lambda one, other: search.calc(one, other, None)

    return made


def farneback(cv2: Any) -> Any:
    """Farneback 2003, five levels."""
    return lambda one, other: cv2.calcOpticalFlowFarneback(one, other, None, 0.5, 5, 15, 3, 5, 1.2, 0)


def without_homography(field: np.ndarray) -> np.ndarray:
    """A motion field minus a homography by RANSAC (1 pixel) on every fourth pixel; the field minus its
    median if there is none."""
    cv2 = import_cv2()
    cv2.setRNGSeed(0)
    y, x = np.mgrid[: field.shape[1], : field.shape[2]].astype(np.float32)
    here = np.stack([x, y], axis=-1)
    some = here[::4, ::4].reshape(-1, 2)
    moved = some + field[:, ::4, ::4].reshape(2, -1).T
    fit, _ = cv2.findHomography(some, moved.astype(np.float32), cv2.RANSAC, 1.0)
    if fit is None:
        return field - np.median(field, axis=(1, 2), keepdims=True)
    camera = cv2.perspectiveTransform(here.reshape(-1, 1, 2), fit).reshape(here.shape) - here
    return (field - camera.transpose(2, 0, 1)).astype(np.float32)


VARIANTS: dict[str, tuple[Callable[[Any], Any], Callable[[np.ndarray], np.ndarray] | None]] = {
    "DIS medium, finest scale, affine camera": (dis("medium", 0), None),
    "DIS ultrafast, affine camera": (dis("ultrafast"), None),
    "DIS fast, affine camera": (dis("fast"), None),
    "DIS medium, affine camera": (dis("medium"), None),
    "Farneback, affine camera": (farneback, None),
    "DIS medium, finest scale, homography by RANSAC": (dis("medium", 0), without_homography),
}
"""The first is what the package does."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("davis", type=Path, help="a copy of DAVIS-2016")
    parser.add_argument("--frames", type=int, default=20, help="frames of each sequence")
    arguments = parser.parse_args()
    davis, cv2 = Davis2016(arguments.davis), import_cv2()
    kept = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else {}
    for name, (make, camera) in VARIANTS.items():
        if name not in kept:
            search = make(cv2)

            def both(one: np.ndarray, other: np.ndarray, search: Any = search) -> np.ndarray:
                return search(*(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other)))

            kept[name] = row(davis, arguments.frames, both, camera)
            result = {
                "name": "davis-flows",
                "protocol": PROTOCOL.format(frames=arguments.frames),
                "frames": arguments.frames,
                "rows": kept,
                "machine": describe(),
            }
            RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(name, {key: round(kept[name][key], 3) for key in ("J", "cpu_seconds_a_frame")}, flush=True)


def row(davis: Davis2016, frames: int, search: Any, camera: Any) -> dict[str, Any]:
    """J of every sequence, their mean, and the cost."""
    found, spent, count = {}, 0.0, 0
    for name in davis.sequences:
        images = list(itertools.islice(davis.frames(name), frames))
        small = [resize_image(image, flow_size(image.shape[:2])) for image in images]
        start = time.process_time()
        speed = fields_of(small, search, camera).speed.float()
        spent, count = spent + time.process_time() - start, count + len(small)
        masks = motion_masks.agreed(motion_masks.above_threshold(speed))[:, None]
        truth = torch.from_numpy(davis.truth(name)[: len(small)])
        size = tuple(truth.shape[1:])
        large = torch.nn.functional.interpolate(masks, size, mode="bilinear", align_corners=False)
        found[name] = metrics.region_similarity(truth, large[:, 0] > 0.5)[1:-1].mean().item()
    return {
        "J": float(np.mean(list(found.values()))),
        "cpu_seconds_a_frame": spent / count,
        "sequences": found,
    }


if __name__ == "__main__":
    main()
