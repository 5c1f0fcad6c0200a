"""Slots over the bundled features (`models.of_features`) as one ONNX graph: image to slots and masks.

The features are the nodes of `export.nodes`, the grouping is traced, and the guided filter is that of
`export.consensus`: images of any size and aspect ratio, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.export.graph import EXAMPLE_GRID, check_difference, trace
from objecthood.export.nodes import Features, Part, call, filter_constants, model_of, node
from objecthood.models.base import FeatureStages
from objecthood.nn import guided_filter

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCES = {"slots": 1e-3, "attention": 1e-3, "masks": 0.02}
"""Largest differences from PyTorch (`compare`). Masks: where the image is flat, the guided filter divides
rounding by rounding."""


class Group(nn.Module):
    """`FeatureStages.group` of features of unit length (`EfficientNetLite0.normalise`), as a module."""

    def __init__(self, stages: FeatureStages):
        super().__init__()
        self.group, self.length = stages.group, stages.backbone.feature_dim**0.5

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        slots, attention = self.group(self.length * features)
        return slots[0], attention[0]


def graph(stages: FeatureStages, resizes: bool = True) -> ModelProto:
    """The graph, not yet compared with PyTorch: `image` [1, 3, height, width] in [0, 1] to `slots` [slots,
    dim], `attention` [slots, rows, columns] and `masks` [slots, height, width].

    Args:
        resizes: whether features are those of the image at `stages.area` pixels; else of the image as it is,
            whose sides are multiples of the backbone's stride.
    """
    from onnx import TensorProto, helper, numpy_helper

    from objecthood.export.consensus import OPSET

    features = Features(stages.backbone)
    features.add("prepared", "features")
    example = torch.rand(1, *EXAMPLE_GRID, stages.backbone.feature_dim)
    names = ("slots", "attention")
    traced = trace(Group(stages).eval(), {"features": example}, {"features": "-rc"}, names, OPSET).graph
    own = {one.name: numpy_helper.to_array(one) for one in traced.initializer}
    scales = filter_constants()
    if resizes:
        scales |= {
            "area": np.asarray(stages.area, np.float32),
            "stride": np.asarray([stages.backbone.stride]),
        }
    part = Part(
        [
            call("prepared", ["image", "area", "stride"], "prepared")
            if resizes
            else node("Identity", ["image"], "prepared"),
            *features.nodes,
            *traced.node,
            call("masks_at_size", ["attention", "image", *filter_constants()], "masks"),
        ],
        features.weights | own | scales,
    )
    slots = traced.output[0].type.tensor_type.shape.dim[1].dim_value
    shapes = {
        "image": [1, 3, "height", "width"],
        "slots": ["slots", slots],
        "attention": ["slots", "rows", "columns"],
        "masks": ["slots", "height", "width"],
    }
    image, *found = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()
    )
    return model_of(part.nodes, [image], found, part.weights)


@torch.no_grad()
def compare(stages: FeatureStages, run: Callable[[dict[str, Any]], dict[str, np.ndarray]]) -> float:
    """The largest difference of the graph, run by `run`, from PyTorch, on scenes of two aspect ratios, whose
    sides are multiples of the stride, at `stages.area` pixels.

    Raises:
        ValueError: one exceeds its entry in `TOLERANCES`.
    """
    largest, stride, side = 0.0, stages.backbone.stride, stages.area**0.5
    for number, ratio in enumerate((1.0, 0.8)):
        size = [stride * round(side * share / stride) for share in (ratio, 1 / ratio)]
        scene = torch.as_tensor(ClevrLike(resolution=size[0])[[number]]["image"])
        image = F.interpolate(scene, size=size, mode="bilinear", antialias=True)
        slots, attention = stages.group(stages.features(image[0]))
        masks = guided_filter.masks_at_size(attention[0], image[0])
        found = run({"image": image})
        for name, wanted in {"slots": slots[0], "attention": attention[0], "masks": masks}.items():
            difference = float(np.abs(wanted.numpy() - found[name]).max())
            check_difference(name, difference, TOLERANCES[name])
            largest = max(largest, difference)
    return largest
