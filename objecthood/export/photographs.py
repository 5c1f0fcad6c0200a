"""Photographs by normalised cut (`models.spectral`) as two ONNX graphs, or as one.

`group` computes what does not depend on the number of segments: image -> features, agreement of the cells and
the tree of its average linkage. `divide` cuts the tree and aligns the masks with the image, fast enough for a
slider. The graphs hold the whole method, for images of any size and aspect ratio; `export.consensus` lists
the differences from PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.export.graph import check_difference
from objecthood.export.nodes import Features, Part, call, filter_constants, model_of, node
from objecthood.models.base import SpectralStages
from objecthood.nn import guided_filter
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.objectness import ObjectnessHead

if TYPE_CHECKING:
    from onnx import ModelProto

Run = Callable[[dict[str, Any]], dict[str, np.ndarray]]
TOLERANCES = {"embedding": 1e-4, "agreement": 0.1, "linkage": 0.02, "masks": 0.02, "whole": 1e-4}
"""Largest differences from PyTorch (`compare`). Masks: where the image is flat, the filter divides rounding
by rounding."""
LEAST_CELLS = 64
"""Of a grid: `consensus.VECTORS` vectors must exist, with room to converge."""


def constants(
    cut: ConsensusCut, num_scales: int, objectness: ObjectnessHead | None = None
) -> dict[str, np.ndarray]:
    """The arrays that `consensus.grouped` takes beside the embeddings, with a head of their objectness.

    Raises:
        ValueError: `cut` has partitions of more eigenvectors than the graph iterates.
    """
    from objecthood.export.consensus import VECTORS

    most = VECTORS // 2
    if max(number for _, number in cut.partitions) > most:
        raise ValueError(
            f"`partitions` (={cut.partitions}) must use at most {most} eigenvectors to be exported"
        )
    kinds = [(clusters, number) for clusters, number in cut.partitions for _ in range(cut.restarts)]
    widest = max(clusters for clusters, _ in kinds)
    draws = [
        torch.rand(widest, generator=torch.Generator().manual_seed(cut.seed + number % cut.restarts)).numpy()
        for number in range(len(kinds))
    ]
    used = [np.arange(most) < number for _, number in kinds]
    unused = [1e9 * (np.arange(widest) >= clusters) for clusters, _ in kinds]
    first = np.eye(num_scales)[0]
    mixing = [np.full(num_scales, 1 / num_scales) if index else first for index, *_ in cut.views]
    views = len(cut.views)
    places = np.arange(VECTORS)
    order = places.copy()  # Brent and Luk's: where the vector at each place was before
    order[2], order[4::2], order[1:-1:2], order[-1] = 1, places[2:-2:2], places[3::2], VECTORS - 2
    nowhere = np.zeros(1), -np.inf  # log odds
    direction, constant = nowhere if objectness is None else objectness.log_odds()
    found = {
        "direction": direction,
        "constant": constant,
        "mixing": mixing,
        "temperatures": np.reshape([view.temperature for view in cut.views], (-1, 1, 1)),
        "reaches": np.reshape([view.reach for view in cut.views], (-1, 1, 1)),
        "tolerances": np.reshape([view.tolerance for view in cut.views], (-1, 1, 1)),
        "swap": np.eye(VECTORS)[places ^ 1],
        "order": np.eye(VECTORS)[order].T,
        "parity": 1 - 2 * (places % 2),
        "offset": cut.offset,
        "used": used,
        "draws": np.tile(draws, (views, 1)),
        "unused": np.tile(unused, (views, 1))[:, None],
    }
    arrays = {name: np.asarray(value, np.float32) for name, value in found.items()}
    return arrays | {"iterations": np.asarray(cut.iterations)}


def graphs(stages: SpectralStages) -> dict[str, ModelProto]:
    """The graphs "group", "divide", and "whole", which is both, not yet compared with PyTorch.

    Raises:
        ValueError: an image would have fewer than `LEAST_CELLS` cells.
    """
    from onnx import TensorProto, helper

    stride, dim = stages.backbone.stride, stages.backbone.feature_dim
    if (stages.sides[0] / stride) ** 2 < LEAST_CELLS:
        least = int(LEAST_CELLS**0.5) * stride
        raise ValueError(f"`sides` (={stages.sides}) must begin with at least {least} pixels to be exported")
    first, last = _group(stages), _divide(stages)
    floats, whole = TensorProto.FLOAT, TensorProto.INT64
    kinds = {
        "image": (floats, [1, 3, "height", "width"]),
        "num_segments": (whole, []),
        "embedding": (floats, ["rows", "columns", dim]),
        "agreement": (floats, ["cells", "cells"]),
        "parents": (whole, ["cells"]),
        "heights": (floats, ["cells"]),
        "members": (floats, ["cells", "segments"]),
        "slots": (floats, ["segments", dim]),
        "attention": (floats, ["segments", "rows", "columns"]),
        "masks": (floats, ["segments", "height", "width"]),
    }
    between, found = ("embedding", "agreement", "parents", "heights"), ("slots", "attention", "masks")

    def model(inputs: Sequence[str], outputs: Sequence[str], *parts: Part) -> ModelProto:
        given, made = (
            [helper.make_tensor_value_info(name, *kinds[name]) for name in names]  # type: ignore[arg-type]
            for names in (inputs, outputs)
        )
        nodes = [one for part in parts for one in part.nodes]
        weights = {name: value for part in parts for name, value in part.weights.items()}
        return model_of(nodes, given, made, weights)

    return {
        "group": model(["image"], between, first),
        "divide": model(["image", *between, "num_segments"], ("members", *found), last),
        "whole": model(["image", "num_segments"], found, first, last),
    }


def compare(stages: SpectralStages, runs: Mapping[str, Run]) -> dict[str, float]:
    """Differences of the graphs, run by `runs`, from PyTorch, on scenes of two aspect ratios.

    "embedding" and "masks": the largest, absolute (masks: from PyTorch's for the same attention);
    "agreement": the mean, as k-means draws other numbers; "linkage": the share of pairs of cells that
    SciPy's average linkage of the same agreement separates and the graph does not, or the reverse; "whole":
    the largest difference of the whole graph from its parts.

    Raises:
        ValueError: one exceeds its entry in `TOLERANCES`.
    """
    found = dict.fromkeys(TOLERANCES, 0.0)
    for number, size in enumerate(((240, 320), (300, 200))):
        scene = torch.as_tensor(ClevrLike(resolution=size[0])[[number]]["image"])
        image = F.interpolate(scene, size=size, mode="bilinear", antialias=True)
        embeddings = stages.embed(image[0])
        made = runs["group"]({"image": image})
        agreement = torch.from_numpy(made["agreement"])
        differences = {
            "embedding": (embeddings.scales[0] - torch.from_numpy(made["embedding"])).abs().max(),
            "agreement": (stages.cut.agreement(*embeddings)[0] - agreement).abs().mean(),
        }
        for num_segments in (0, 8):
            given = {"image": image, "num_segments": num_segments}
            parts, whole = runs["divide"](given | made), runs["whole"](given)
            cut = replace(stages.cut, num_segments=num_segments or None)
            labels, attention = cut.labels(agreement), torch.from_numpy(parts["attention"])
            own = torch.from_numpy(parts["members"].argmax(axis=1))
            differs = (labels[:, None] == labels) != (own[:, None] == own)
            masks = guided_filter.masks_at_size(attention, image[0])
            differences["linkage"] = differs.float().mean()
            differences["masks"] = (masks - torch.from_numpy(parts["masks"])).abs().max()
            differences["whole"] = np.max([np.abs(whole[name] - parts[name]).max() for name in whole])
            for name, value in differences.items():
                check_difference(name, float(value), TOLERANCES[name])
                found[name] = max(found[name], float(value))
    return found


def _group(stages: SpectralStages) -> Part:
    """Image to embedding, agreement and tree."""
    weights = constants(stages.cut, len(stages.sides), stages.objectness)
    cut = [*weights]
    features = Features(stages.backbone)
    weights |= features.weights | {"stride": np.asarray([stages.backbone.stride]), "zeroth": np.asarray(0)}
    scales = []
    for number, side in enumerate(stages.sides):
        weights[f"area{number}"] = np.asarray(side * side, np.float32)
        features.nodes.append(call("prepared", ["image", f"area{number}", "stride"], f"image{number}"))
        features.add(f"image{number}", f"features{number}")
        features.nodes.append(call("embedded", [f"features{number}", "features0"], f"scale{number}"))
        scales.append(f"scale{number}")
    return Part(
        [
            *features.nodes,
            node("Concat", scales, "scales", axis=0),
            node("Gather", ["scales", "zeroth"], "embedding", axis=0),
            call("grouped", ["scales", *cut], "agreement", "parents", "heights"),
        ],
        weights,
    )


def _divide(stages: SpectralStages) -> Part:
    """Tree and image to slots, attention and masks."""
    weights = {"distance": np.asarray(stages.cut.distance, np.float32)} | filter_constants()
    given = ["image", "embedding", "agreement", "parents", "heights", "num_segments", *weights]
    return Part([call("divided", given, "members", "slots", "attention", "masks")], weights)
