"""Photographs by normalised cut (`models.spectral`) as two ONNX graphs, or as one.

`group` computes what does not depend on the number of segments: image -> features, agreement of the cells and
the tree of its average linkage. `divide` cuts the tree and aligns the masks with the image, fast enough for a
slider. The graphs hold the whole method, for images of any size and aspect ratio; `export.consensus` lists
the differences from PyTorch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.models.base import SpectralStages
from objecthood.nn import guided_filter
from objecthood.nn.backbones import EfficientNetLite0, InvertedBlock, SameConv
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.encoders import same_padding

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto

Run = Callable[[dict[str, Any]], dict[str, np.ndarray]]
TOLERANCES = {"embedding": 1e-4, "agreement": 0.1, "linkage": 0.02, "masks": 0.02, "whole": 1e-4}
"""Largest differences from PyTorch (`compare`). Masks: where the image is flat, the filter divides rounding
by rounding."""
LEAST_CELLS = 64
"""Of a grid: `consensus.VECTORS` vectors must exist, with room to converge."""


class Features:
    """The nodes of a backbone, once for every image; its weights are shared, in float16, which holds them."""

    def __init__(self, backbone: EfficientNetLite0):
        self.backbone = backbone
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {
            "mean": backbone.mean.numpy(),
            "deviation": backbone.deviation.numpy(),
            "channels": np.asarray(backbone.channels),
            "last": np.asarray([3]),
        }
        share = len(backbone.channels) ** -0.5
        for number, value in {"zero": 0, "one": 1, "two": 2, "six": 6, "share": share}.items():
            self.weights[number] = np.asarray(value, np.float32)
        for name, value in backbone.named_parameters():
            self.weights[f"{name}/half"] = value.half().numpy()
            self.nodes.append(_node("Cast", [f"{name}/half"], name, to=1))

    def add(self, image: str, features: str) -> None:
        """Nodes from `image` [1, 3, height, width] in [0, 1] to standardised features [1, rows, columns, dim]
        (`EfficientNetLite0.normalise`)."""
        self.prefix, kept = features, {}
        doubled = self._new("Mul", image, "two")
        hidden = self._relu6(self._conv("stem", self.backbone.stem, self._new("Sub", doubled, "one")))
        for number, stage in enumerate(self.backbone.stages):
            for index, block in enumerate(cast("list[InvertedBlock]", stage)):
                hidden = self._block(f"stages.{number}.{index}", block, hidden)
            kept[number] = hidden
        layers = [kept[layer] for layer in self.backbone.layers]
        turned = self._new("Transpose", self._new("Concat", *layers, axis=1), perm=[0, 2, 3, 1])
        standard = self._new("Div", self._new("Sub", turned, "mean"), "deviation")
        names = [f"{features}/part{number}" for number in range(len(layers))]
        self.nodes.append(_node("Split", [standard, "channels"], *names, axis=3))
        units = [self._new("Div", name, self._new("ReduceL2", name, "last")) for name in names]
        self.nodes.append(_node("Mul", [self._new("Concat", *units, axis=3), "share"], features))

    def _block(self, name: str, block: InvertedBlock, inputs: str) -> str:
        hidden = inputs
        if block.expand is not None:
            hidden = self._relu6(self._conv(f"{name}.expand", block.expand, hidden))
        hidden = self._relu6(self._conv(f"{name}.depthwise", block.depthwise, hidden))
        hidden = self._conv(f"{name}.project", block.project, hidden)
        return self._new("Add", inputs, hidden) if block.residual else hidden

    def _conv(self, name: str, conv: SameConv, inputs: str) -> str:
        """Sides are multiples of the stride, so that the padding is the same for all."""
        (kernel, _), (stride, _), (dilation, _) = conv.kernel_size, conv.stride, conv.dilation
        before, after = same_padding(16 * stride, (kernel - 1) * dilation + 1, stride)
        return self._new(
            "Conv", inputs, f"{name}.weight", f"{name}.bias",
            kernel_shape=[kernel, kernel], strides=[stride, stride], dilations=[dilation, dilation],
            pads=[before, before, after, after], group=conv.groups,
        )  # fmt: skip

    def _relu6(self, inputs: str) -> str:
        return self._new("Clip", inputs, "zero", "six")

    def _new(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"{self.prefix}/{len(self.nodes)}"
        self.nodes.append(_node(kind, inputs, name, **attributes))
        return name


def constants(cut: ConsensusCut, num_scales: int) -> dict[str, np.ndarray]:
    """The arrays that `consensus.grouped` takes beside the embeddings.

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
    mixing = [np.full(num_scales, 1 / num_scales) if index else first for index, _, _ in cut.views]
    views = len(cut.views)
    places = np.arange(VECTORS)
    order = places.copy()  # Brent and Luk's: where the vector at each place was before
    order[2], order[4::2], order[1:-1:2], order[-1] = 1, places[2:-2:2], places[3::2], VECTORS - 2
    found = {
        "mixing": mixing,
        "temperatures": np.reshape([temperature for _, temperature, _ in cut.views], (-1, 1, 1)),
        "reaches": np.reshape([reach for _, _, reach in cut.views], (-1, 1, 1)),
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
        nodes = [node for part in parts for node in part.nodes]
        weights = {name: value for part in parts for name, value in part.weights.items()}
        return _model(nodes, given, made, weights)

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
            "embedding": (embeddings[0] - torch.from_numpy(made["embedding"])).abs().max(),
            "agreement": (stages.cut.agreement(embeddings)[0] - agreement).abs().mean(),
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
            differences["whole"] = max(np.abs(whole[name] - parts[name]).max() for name in whole)
            for name, value in differences.items():
                found[name] = max(found[name], float(value))
    for name, largest in found.items():
        if not largest <= TOLERANCES[name]:
            raise ValueError(
                f"{name} of the exported graph differs from PyTorch by {largest:.1e}, more than "
                f"{TOLERANCES[name]}; no file was written. Try other versions of onnxscript and onnxruntime"
            )
    return found


class Part(NamedTuple):
    """Nodes and their constants."""

    nodes: list[Any]
    weights: dict[str, np.ndarray]


def _group(stages: SpectralStages) -> Part:
    """Image to embedding, agreement and tree."""
    weights = constants(stages.cut, len(stages.sides))
    cut = [*weights]
    features = Features(stages.backbone)
    weights |= features.weights | {"stride": np.asarray([stages.backbone.stride]), "zeroth": np.asarray(0)}
    scales = []
    for number, side in enumerate(stages.sides):
        weights[f"area{number}"] = np.asarray(side * side, np.float32)
        features.nodes.append(_call("prepared", ["image", f"area{number}", "stride"], f"image{number}"))
        features.add(f"image{number}", f"features{number}")
        features.nodes.append(_call("embedded", [f"features{number}", "features0"], f"scale{number}"))
        scales.append(f"scale{number}")
    return Part(
        [
            *features.nodes,
            _node("Concat", scales, "scales", axis=0),
            _node("Gather", ["scales", "zeroth"], "embedding", axis=0),
            _call("grouped", ["scales", *cut], "agreement", "parents", "heights"),
        ],
        weights,
    )


def _divide(stages: SpectralStages) -> Part:
    """Tree and image to slots, attention and masks."""
    weights = {
        "distance": np.asarray(stages.cut.distance, np.float32),
        "guide_area": np.asarray(guided_filter.SIDE**2, np.float32),
        "radius": np.asarray(guided_filter.RADIUS),
        "smoothness": np.asarray(guided_filter.SMOOTHNESS, np.float32),
    }
    given = ["image", "embedding", "agreement", "parents", "heights", "num_segments", *weights]
    return Part([_call("divided", given, "members", "slots", "attention", "masks")], weights)


def _call(name: str, inputs: Sequence[str], *outputs: str) -> Any:
    """A call of a function of `export.consensus`."""
    return _node(name, inputs, *outputs, domain="this")


def _node(kind: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any) -> Any:
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, domain=domain, **attributes)


def _model(
    nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, np.ndarray]
) -> ModelProto:
    """A model in which the called functions are written out."""
    from onnx import checker, helper, inliner, numpy_helper
    from onnxscript import optimizer

    from objecthood.export import consensus

    functions: dict[str, FunctionProto] = {}
    for node in nodes:
        if node.domain:
            called = getattr(consensus, node.op_type)
            functions |= {one.name: one for one in called.to_model_proto().functions}
            functions[called.name] = called.to_function_proto()
    for function in functions.values():
        _order_loops(function.node)
    graph = helper.make_graph(
        nodes,
        "objecthood",
        inputs,
        outputs,
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", consensus.OPSET), helper.make_opsetid("this", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[*functions.values()])
    model = optimizer.optimize(inliner.inline_local_functions(model))
    checker.check_model(model)
    return model


def _order_loops(nodes: Sequence[Any]) -> None:
    """Put the outputs of loops into the order of their bodies.

    onnxscript 0.7 lists both in the order of a set, which can differ; a name is that of the variable and a
    number.
    """
    for node in nodes:
        for attribute in node.attribute:
            if node.op_type == "Loop" and attribute.name == "body":
                own = {_variable(name): name for name in node.output}
                node.output[:] = [own[_variable(value.name)] for value in attribute.g.input[2:]]
            _order_loops(attribute.g.node)


def _variable(name: str) -> str:
    return re.sub(r"_\d+$", "", name)
