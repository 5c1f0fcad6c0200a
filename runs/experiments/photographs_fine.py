"""Score small segments of photographs (`predict --fine`) beside those of `photos`: results/photographs.json.

    python runs/experiments/photographs_fine.py select FOLDER SELECT.json
    python runs/experiments/photographs_fine.py report FOLDER ANNOTATIONS.json --without FOLDER FOLDER

Data and protocol are those of `photographs.py`, with seed 0 of k-means. Each photograph is divided by
`photos` ("plain"), by `photos` with `--fine` ("fine"), and by `photos` into as many segments as `--fine` has
("as-many"): what more segments alone would give. Differences from "plain" are paired over photographs, and
over objects of a size, with their standard error.
"""

from __future__ import annotations

import json
import statistics
import time

import torch
from photographs import BACKBONE, SEEDS, TARGET, parser_of, scenes_of
from torch import Tensor

from objecthood.metrics import dinosaur_scores, object_overlaps
from objecthood.models.spectral import SpectralSegmenter
from objecthood.runtime.environment import commit, describe

SIZES = (0.0, 0.002, 0.01, 0.1, 1.0)
"""Areas of objects, in shares of the image, between which overlaps are averaged."""
METHODS = ("plain", "fine", "as-many")
SCORES = ("fg_ari", "mbo_i", "mbo_c")
Found = dict[str, dict]
"""Of one photograph, by method: scores, "overlaps" of its objects, "segments" and "cpu_seconds"."""


def main() -> None:
    arguments = parser_of(__doc__).parse_args()
    write(arguments.part, [measured(*scene) for scene in scenes_of(arguments)])


def measured(image: Tensor, instances: Tensor, classes: Tensor) -> Found:
    """The photograph divided by each method, scored."""
    plain = SpectralSegmenter(BACKBONE)
    found: Found = {}
    for method in METHODS:
        number = found["fine"]["segments"] if method == "as-many" else None
        began = time.process_time()
        labels = (plain.finer() if method == "fine" else plain).divide(image, number).masks.argmax(dim=0)
        seconds = time.process_time() - began
        scores = dinosaur_scores(instances[None], labels[None], classes[None])
        overlaps, present = object_overlaps(instances[None], labels[None])
        areas = [(instances == label).float().mean().item() for label in range(1, overlaps.shape[1] + 1)]
        objects = zip(areas, overlaps[0].amax(dim=1).tolist(), present[0].tolist(), strict=True)
        found[method] = {name: scores[name].item() for name in SCORES} | {
            "overlaps": [(area, overlap) for area, overlap, there in objects if there],
            "segments": len(labels.unique()),
            "cpu_seconds": seconds,
        }
    return found


def write(part: str, photographs: list[Found]) -> None:
    """Means, and differences from "plain", into the part of the file."""
    rows = {method: summary([one[method] for one in photographs]) for method in METHODS}
    for method in METHODS[1:]:
        pairs = [(one[method], one["plain"]) for one in photographs]
        rows[method]["difference"] = {
            name: difference([one[name] - other[name] for one, other in pairs]) for name in SCORES
        }
        rows[method]["difference_by_size"] = [
            difference(some) for some in by_size([gain for pair in pairs for gain in gains(*pair)])
        ]
    content = json.loads(TARGET.read_text())
    content[part]["fine"] = {
        "rows": rows,
        "sizes": SIZES,
        "objects": [
            len(some) for some in by_size([pair for one in photographs for pair in one["plain"]["overlaps"]])
        ],
        "protocol": f"as the rows, seed {SEEDS[0]}; of each object, overlap with its best segment, by area",
        "commit": commit(),
        "machine": describe(),
    }
    TARGET.write_text(json.dumps(content, indent=1) + "\n")
    for method, row in rows.items():
        print(method, row, flush=True)


def summary(found: list[dict]) -> dict:
    """Means over photographs, and of overlaps by size."""
    overlaps = by_size([pair for one in found for pair in one["overlaps"]])
    return {
        **{name: round(statistics.mean(numbers([one[name] for one in found])), 4) for name in SCORES},
        "by_size": [round(statistics.mean(some), 4) for some in overlaps],
        "segments": round(statistics.mean(one["segments"] for one in found), 1),
        "cpu_seconds": round(statistics.mean(one["cpu_seconds"] for one in found), 2),
    }


def by_size(pairs: list[tuple[float, float]]) -> list[list[float]]:
    """The second of each pair, by the size that the first is."""
    ranges = zip(SIZES, SIZES[1:], strict=False)
    return [[value for area, value in pairs if low <= area < high] for low, high in ranges]


def gains(one: dict, other: dict) -> list[tuple[float, float]]:
    """Area and difference in overlap of each object."""
    pairs = zip(one["overlaps"], other["overlaps"], strict=True)
    return [(area, mine - theirs) for (area, mine), (_, theirs) in pairs]


def difference(values: list[float]) -> list[float]:
    """Mean and its standard error."""
    kept = numbers(values)
    return [round(statistics.mean(kept), 4), round(statistics.stdev(kept) / len(kept) ** 0.5, 4)]


def numbers(values: list[float]) -> list[float]:
    """Those that are defined: a photograph with one object has no FG-ARI where nothing divides it."""
    return [value for value in values if value == value]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
