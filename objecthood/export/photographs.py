"""Photographs by normalised cut (`models.spectral`) or by learned affinity (`models.affinity_slots`) as two
ONNX graphs, or as one.

`group` computes what does not depend on the number of segments: image -> features, agreement (or affinity)
of the cells and the tree of its average linkage. `divide` cuts the tree and aligns the masks with the image,
fast enough for a slider. The graphs hold the whole method, for images of any size and aspect ratio;
`export.consensus` lists the differences from PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.export.graph import EXAMPLE_GRID, check_difference, trace
from objecthood.export.nodes import Features, Part, call, filter_constants, model_of, node
from objecthood.models.base import AffinityStages, PhotographStages, SpectralStages
from objecthood.nn import guided_filter, pairwise_affinity
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.objectness import ObjectnessHead
from objecthood.nn.pairwise_affinity import clusters_of, merged

if TYPE_CHECKING:
    from onnx import ModelProto

Run = Callable[[dict[str, Any]], dict[str, np.ndarray]]
TOLERANCES = {
    "embedding": 1e-4,
    "agreement": 0.1,
    "affinity": 1e-3,
    "clusters": 0.1,
    "linkage": 0.02,
    "masks": 0.02,
    "whole": 1e-4,
}
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


class Affinity(nn.Module):
    """Unit features [1, rows, columns, dim] to their embedding [cells, dim] and affinity [cells, cells]."""

    def __init__(self, stages: AffinityStages):
        super().__init__()
        self.affinity = stages.affinity

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.affinity(features)
        return embedding[0], self.affinity.probability(embedding)[0]


def graphs(stages: PhotographStages) -> dict[str, ModelProto]:
    """The graphs "group", "divide", and "whole", which is both, not yet compared with PyTorch.

    Raises:
        ValueError: an image would have fewer than `LEAST_CELLS` cells for cuts.
    """
    from onnx import TensorProto, helper

    stride, dim = stages.backbone.stride, stages.backbone.feature_dim
    if isinstance(stages, SpectralStages) and (stages.sides[0] / stride) ** 2 < LEAST_CELLS:
        least = int(LEAST_CELLS**0.5) * stride
        raise ValueError(f"`sides` (={stages.sides}) must begin with at least {least} pixels to be exported")
    first = _cut(stages) if isinstance(stages, SpectralStages) else _affinity(stages)
    last = _divide(stages)
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


@torch.no_grad()
def compare(stages: PhotographStages, runs: Mapping[str, Run]) -> dict[str, float]:
    """Differences of the graphs, run by `runs`, from PyTorch, on scenes of two aspect ratios.

    "embedding", "affinity" and "masks": the largest, absolute (masks: from PyTorch's for the same attention);
    "agreement": the mean, as k-means draws other numbers; "clusters": how much larger the mean squared
    distance to the nearest centre is, as a share; "linkage": the share of pairs of cells that average linkage
    of the same agreement and clusters separates and the graph does not, or the reverse; "whole": the largest
    difference of the whole graph from its parts.

    Raises:
        ValueError: one exceeds its entry in `TOLERANCES`.
    """
    found: dict[str, float] = {}
    for number, size in enumerate(((240, 320), (300, 200))):
        scene = torch.as_tensor(ClevrLike(resolution=size[0])[[number]]["image"])
        image = F.interpolate(scene, size=size, mode="bilinear", antialias=True)
        made = runs["group"]({"image": image})
        tensors = {name: torch.from_numpy(value) for name, value in made.items()}
        if isinstance(stages, SpectralStages):
            differences, labels_of = _cut_differences(stages, image[0], tensors)
        else:
            differences, labels_of = _affinity_differences(stages, image[0], tensors)
        for num_segments in (0, 8):
            given = {"image": image, "num_segments": num_segments}
            parts, whole = runs["divide"](given | made), runs["whole"](given)
            labels, attention = labels_of(num_segments or None), torch.from_numpy(parts["attention"])
            own = torch.from_numpy(parts["members"].argmax(axis=1))
            differs = (labels[:, None] == labels) != (own[:, None] == own)
            masks = guided_filter.masks_at_size(attention, image[0])
            differences["linkage"] = differs.float().mean()
            differences["masks"] = (masks - torch.from_numpy(parts["masks"])).abs().max()
            differences["whole"] = np.max([np.abs(whole[name] - parts[name]).max() for name in whole])
            for name, value in differences.items():
                check_difference(name, float(value), TOLERANCES[name])
                found[name] = max(found.get(name, 0.0), float(value))
    return found


Differences = tuple[dict[str, Any], Callable[[int | None], Tensor]]


def _cut_differences(stages: SpectralStages, image: Tensor, made: Mapping[str, Tensor]) -> Differences:
    """Those of the graph "group" (`compare`), and labels of the same agreement in a number of segments."""
    embeddings = stages.embed(image)
    own = stages.cut.agreement(*embeddings)[0]
    return {
        "embedding": (embeddings.scales[0] - made["embedding"]).abs().max(),
        "agreement": (own - made["agreement"]).abs().mean(),
    }, lambda number: replace(stages.cut, num_segments=number).labels(made["agreement"])


def _affinity_differences(stages: AffinityStages, image: Tensor, made: Mapping[str, Tensor]) -> Differences:
    """The same of learned affinity."""
    unit = F.normalize(stages.features(image), dim=-1)
    points, affinity = Affinity(stages)(unit[None])
    index = torch.arange(len(points))
    roots = torch.where(made["heights"] < 0, made["parents"], index)
    clusters = roots.unique(return_inverse=True)[1]

    def spread(labels: Tensor) -> Tensor:
        members = F.one_hot(labels).to(points)
        centres = members.T @ points / members.sum(dim=0)[:, None]
        return (points - centres[labels]).square().sum()

    own = spread(clusters_of(points, stages.clusters))
    return {
        "embedding": (unit - made["embedding"]).abs().max(),
        "affinity": (affinity - made["agreement"]).abs().max(),
        "clusters": spread(clusters) / own - 1,
    }, lambda number: merged(clusters, made["agreement"], stages.distance, number)


def _cut(stages: SpectralStages) -> Part:
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


def _affinity(stages: AffinityStages) -> Part:
    """Image to features, affinity and tree of the clusters."""
    from onnx import numpy_helper

    from objecthood.export.consensus import OPSET

    features = Features(stages.backbone)
    features.nodes.append(call("prepared", ["image", "area", "stride"], "prepared"))
    features.add("prepared", "unit")
    example = torch.rand(1, *EXAMPLE_GRID, stages.backbone.feature_dim)
    network, names = Affinity(stages).eval(), ("points", "agreement")
    traced = trace(network, {"unit": example}, {"unit": "-rc"}, names, OPSET).graph
    draws = torch.rand(1, stages.clusters, generator=torch.Generator().manual_seed(0))
    weights = {
        "area": np.asarray(stages.sides[0] ** 2, np.float32),
        "stride": np.asarray([stages.backbone.stride]),
        "draws": draws.numpy(),
        "unused": np.zeros((1, 1, stages.clusters), np.float32),
        "iterations": np.asarray(pairwise_affinity.ITERATIONS),
        "zeroth": np.asarray(0),
    }
    return Part(
        [
            *features.nodes,
            node("Gather", ["unit", "zeroth"], "embedding", axis=0),
            *traced.node,
            call("clustered", ["points", "agreement", "draws", "unused", "iterations"], "parents", "heights"),
        ],
        features.weights | {one.name: numpy_helper.to_array(one) for one in traced.initializer} | weights,
    )


def _divide(stages: PhotographStages) -> Part:
    """Tree and image to slots, attention and masks."""
    weights = {"distance": np.asarray(stages.distance, np.float32)} | filter_constants()
    given = ["image", "embedding", "agreement", "parents", "heights", "num_segments", *weights]
    return Part([call("divided", given, "members", "slots", "attention", "masks")], weights)
