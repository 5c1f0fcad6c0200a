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
from torch import Tensor
from torch.nn import functional

from objecthood import metrics
from objecthood.data.io.images import resize_image
from objecthood.data.published.davis import Davis2016
from objecthood.motion import masks as motion_masks
from objecthood.motion.fields import KEPT, fields_of, flow_size
from objecthood.motion.optical_flow import import_cv2
from objecthood.nn.backbones import EfficientNetLite0
from objecthood.nn.block_matching import best_displacement
from objecthood.nn.guided_filter import guided_filter
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
        return on_grey(cv2, lambda one, other: search.calc(one, other, None))

    return made


def on_grey(cv2: Any, search: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Any:
    """A search between grey images, for colour images."""
    return lambda one, other: search(*(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other)))


def farneback(cv2: Any) -> Any:
    """Farneback 2003, five levels."""
    options = (None, 0.5, 5, 15, 3, 5, 1.2, 0)
    return on_grey(cv2, lambda one, other: cv2.calcOpticalFlowFarneback(one, other, *options))


def block_matching(cv2: Any, reach: int = 6, window: int = 5) -> Any:
    """Blocks of `window` pixels on the fields' own grid, moved by up to `reach` pixels each way; the best
    displacement is refined by a parabola (`nn.block_matching`)."""
    side = 2 * reach + 1

    def search(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        rows, columns = one.shape[0] // KEPT, one.shape[1] // KEPT
        small, moved = (resize_image(image, (rows, columns)) / np.float32(255) for image in (one, other))
        wide = cv2.copyMakeBorder(moved, *(reach,) * 4, cv2.BORDER_REPLICATE)
        errors = np.empty((side * side, rows * columns), np.float32)
        for number in range(side * side):
            y, x = divmod(number, side)
            square = np.square(wide[y : y + rows, x : x + columns] - small).mean(axis=2)
            errors[number] = cv2.blur(square, (window, window)).ravel()
        best = best_displacement(torch.from_numpy(errors).T.reshape(-1, side, side), reach)
        return KEPT * best.view(rows, columns, 2).numpy().repeat(KEPT, axis=0).repeat(KEPT, axis=1)

    return search


class FeatureMatching:
    """Frozen features of EfficientNet-lite0, from frames of 480 rows, matched by cosine in a local window.

    Channels are standardised over each frame. The best displacement of a cell is refined by a soft argmax
    over the 3 x 3 around it; its margin over all others is the weight of the cell in a guided filter.

    Args:
        stages: of the network, of equal stride.
        reach: largest displacement in cells.
        start_of: refines the field from there, on grey frames; without it the field is smoothed.
    """

    def __init__(self, stages: tuple[int, ...], reach: int, start_of: Any = None):
        self.backbone, self.stages = EfficientNetLite0.bundled(), stages
        self.reach, self.start_of = reach, start_of
        self.full: dict[int, np.ndarray] = {}
        self.kept: dict[int, Tensor] = {}

    def see(self, small: list[np.ndarray], images: list[np.ndarray]) -> None:
        """Frames at full size, by the small ones that will be asked for."""
        self.full, self.kept = {id(one): image for one, image in zip(small, images, strict=True)}, {}

    @torch.no_grad()
    def features(self, frame: np.ndarray) -> Tensor:
        """Unit vectors [channels, rows, columns]."""
        if id(frame) not in self.kept:
            image = torch.from_numpy(self.full[id(frame)]).permute(2, 0, 1)[None].float() / 255
            rows, columns = (round(2 * side / 16) * 16 for side in frame.shape[:2])
            image = functional.interpolate(image, (rows, columns), mode="bilinear", antialias=True)
            hidden = functional.relu6(self.backbone.stem(2 * image - 1))
            parts = []
            for number, stage in enumerate(self.backbone.stages[: max(self.stages) + 1]):
                hidden = stage(hidden)
                parts += [hidden[0]] if number in self.stages else []
            features = torch.cat(parts)
            centred = features - features.mean(dim=(1, 2), keepdim=True)
            scale = features.std(dim=(1, 2), keepdim=True).clamp_min(1e-6)
            self.kept[id(frame)] = functional.normalize(centred / scale, dim=0)
        return self.kept[id(frame)]

    def __call__(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Displacement of each pixel of `one`, [rows, columns, 2]."""
        field, margin = self.matched(self.features(one), self.features(other))
        size = one.shape[0], one.shape[1]
        scale = torch.tensor([size[1] / field.shape[2], size[0] / field.shape[1]])[:, None, None]
        weighted = torch.cat([field * scale * margin, margin])
        if self.start_of is None:
            grid = size[0] // KEPT, size[1] // KEPT  # the fields' own; finer is averaged later
            guide = torch.from_numpy(resize_image(one, grid)).permute(2, 0, 1).float() / 255
            large = functional.interpolate(weighted[None], grid, mode="bilinear", align_corners=False)[0]
            weighted = guided_filter(guide, large, radius=4)
        else:
            weighted = functional.avg_pool2d(weighted[None], 3, 1, 1)[0]
        smooth = (weighted[:2] / weighted[2:].clamp_min(1e-3))[None]
        flow = functional.interpolate(smooth, size, mode="bilinear", align_corners=False)[0]
        start = np.ascontiguousarray(flow.permute(1, 2, 0).numpy())
        return start if self.start_of is None else self.start_of(one, other, start)

    def matched(self, one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """Displacement in cells [2, rows, columns] and margin [1, rows, columns] of the best match."""
        reach, side = self.reach, 2 * self.reach + 1
        rows, columns = one.shape[1:]
        wide = functional.pad(other, (reach,) * 4)
        outside = functional.pad(torch.zeros(rows, columns), (reach,) * 4, value=-1.0)
        cosines = torch.stack(
            [
                (one * wide[:, y : y + rows, x : x + columns]).sum(dim=0)
                + outside[y : y + rows, x : x + columns]
                for y in range(side)
                for x in range(side)
            ]
        )
        cosines = functional.avg_pool2d(cosines[None], 3, 1, 1, count_include_pad=False)[0]
        best = cosines.argmax(dim=0)
        number = torch.arange(side * side)
        y, x = ((part[:, None, None] - reach).float() for part in (number // side, number % side))
        near = ((y - (best // side - reach)).abs() <= 1) & ((x - (best % side - reach)).abs() <= 1)
        share = (cosines / 0.05).masked_fill(~near, -torch.inf).softmax(dim=0)
        others = cosines.masked_fill(near, -1).amax(dim=0)
        margin = (cosines.amax(dim=0) - others).clamp_min(0) + 0.01
        return torch.stack([(share * x).sum(dim=0), (share * y).sum(dim=0)]), margin[None]


def matching(stages: tuple[int, ...], reach: int, refined: bool = False) -> Callable[[Any], Any]:
    """`FeatureMatching`, alone or as the start of DIS at the finest scale."""

    def made(cv2: Any) -> Any:
        search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        search.setFinestScale(0)

        def refine(one: np.ndarray, other: np.ndarray, start: np.ndarray) -> np.ndarray:
            return search.calc(*(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (one, other)), start)

        return FeatureMatching(stages, reach, refine if refined else None)

    return made


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
    "block matching, affine camera": (block_matching, None),
    "DIS medium, finest scale, homography by RANSAC": (dis("medium", 0), without_homography),
    "matched features, 16 pixels a cell, affine camera": (matching((4, 5), 3), None),
    "matched features, 8 pixels a cell, affine camera": (matching((2,), 6), None),
    "DIS medium, finest scale, from matched features, affine camera": (matching((2,), 6, True), None),
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
            kept[name] = row(davis, arguments.frames, make(cv2), camera)
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
        if isinstance(search, FeatureMatching):
            search.see(small, images)
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
