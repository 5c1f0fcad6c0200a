"""Score what divides rendered scenes with patterned surfaces: results/textured.json.

    python runs/experiments/textured.py FOLDER   # `objecthood data render clevr --background textured`
    python runs/experiments/textured.py FOLDER --rows cut consensus     # other rows of the file stay
    python runs/experiments/textured.py FOLDER --split validation --rows cut    # prints; writes nothing

Does a frozen backbone help where colours mislead? Floors of colours and features, the model `photos`, and
regions off the line of the background's colours, from which the recipe `center-votes` learns. Features are of
images at 128 x 128, enlarged as the backbone wants them; all masks are scored at 64 x 64, as those of
`clevr6-like` and `center-votes`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from objecthood import metrics
from objecthood.analysis.baselines import (
    blocks,
    colour_components,
    colour_kmeans,
    feature_cut,
    feature_kmeans,
)
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.models.center_votes import OFF_LINE
from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn import merge_background
from objecthood.nn.background_line import background_line, off_line
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.cut_and_paste import regions
from objecthood.nn.guided_filter import masks_at_size
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "textured.json"
SLOTS, SIDE, BATCH = 7, 64, 16
Labels = Callable[[Tensor, Tensor, int], Tensor]
"""Images at 64 x 64 and at 128 x 128, and the number of the first, to labels or masks at 64 x 64."""


def off_background(small: Tensor, large: Tensor, first: int) -> Tensor:
    """Regions off the line of the background's colours."""
    return regions(off_line(small, background_line(small)).norm(dim=1) > OFF_LINE)


def of_features(group: Callable[..., Tensor], side: int) -> Labels:
    """Segments of the embeddings at a scale, their edges those of the image (`nn.guided_filter`)."""

    def segment(small: Tensor, large: Tensor, first: int) -> Tensor:
        embed = SpectralSegmenter(sides=(side,)).embed
        found = group(torch.stack([embed(image).scales[0] for image in large]), SLOTS, first)
        masks = F.one_hot(found, SLOTS).movedim(-1, 1).float()
        return halved(torch.stack([masks_at_size(*pair) for pair in zip(masks, large, strict=True)]))

    return segment


def consensus(num_segments: int | None = None, merged: bool = False) -> Labels:
    """The model `photos`, as it is or with so many segments; `merged`: with one background."""

    def segment(small: Tensor, large: Tensor, first: int) -> Tensor:
        key = num_segments, first
        if key not in _kept:
            _kept[key] = SpectralSegmenter(cut=ConsensusCut(num_segments=num_segments)).segment(large).masks
        masks = halved(_kept[key])
        return merge_background(masks, masks[:, :, None].expand(-1, -1, 3, -1, -1))[0] if merged else masks

    return segment


_kept: dict[tuple[int | None, int], Tensor] = {}
"""Masks of the consensus, by number of segments and first image."""


def halved(masks: Tensor) -> Tensor:
    return F.avg_pool2d(masks, 2)


ROWS: dict[str, tuple[str, Labels]] = {
    "blocks": ("equal blocks", lambda small, large, first: blocks(small, SLOTS)),
    "components": ("colour components", lambda small, large, first: colour_components(small)),
    "kmeans": ("colour k-means", lambda small, large, first: colour_kmeans(small, SLOTS, first)),
    "kmeans_position": (
        "colour and position k-means",
        lambda small, large, first: colour_kmeans(small, SLOTS, first, position=1.0),
    ),
    "feature_kmeans": ("k-means on frozen features and position", of_features(feature_kmeans, 448)),
    "cut": ("normalised cut of frozen features", of_features(feature_cut, 448)),
    "consensus": ("consensus of cuts (`photos`)", consensus()),
    "consensus_known": (f"the same, {SLOTS} segments", consensus(SLOTS)),
    "consensus_merged": ("the same, merged background", consensus(SLOTS, merged=True)),
    "off_line": ("regions off the line of the background's colours", off_background),
}


@torch.no_grad()
def scored(name: str, folder: str, split: str, count: int) -> dict[str, Any]:
    """Mean scores, and CPU seconds an image."""
    title, divide = ROWS[name]
    small, large = (ClevrLike(folder, split, side, (3, 6)) for side in (SIDE, 2 * SIDE))
    values: dict[str, list[Tensor]] = {}
    seconds, number = 0.0, min(count, len(small))
    for first in range(0, number, BATCH):
        indices = range(first, min(first + BATCH, number))
        scenes, images = small[indices], large[indices]["image"]
        began = time.process_time()
        found = divide(scenes["image"], images, first)
        seconds += time.process_time() - began
        for score, value in metrics.discovery_scores(scenes["masks"], found).items():
            values.setdefault(score, []).append(value)
    means = {score: round(torch.cat(parts).nanmean().item(), 4) for score, parts in values.items()}
    return {"title": title, **means, "scenes": number, "cpu_seconds": round(seconds / number, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--split", choices=("validation", "test"), default="test")
    parser.add_argument("--scenes", type=int, default=160)
    arguments = parser.parse_args()
    for name in arguments.rows:
        row = scored(name, arguments.folder, arguments.split, arguments.scenes)
        print(name, row, flush=True)
        if arguments.split == "test":
            facts = json.loads(TARGET.read_text()) if TARGET.exists() else {"rows": {}}
            facts["rows"][name] = row | {"machine": describe()}
            facts["rows"] = {key: facts["rows"][key] for key in ROWS if key in facts["rows"]}
            TARGET.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
