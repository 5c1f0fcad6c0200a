"""Nodes of ONNX graphs written by hand: frozen features, calls of `export.consensus`, and whole models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from objecthood.nn import guided_filter
from objecthood.nn.backbones import EfficientNetLite0, InvertedBlock, SameConv
from objecthood.nn.encoders import same_padding

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto


class Part(NamedTuple):
    """Nodes and their constants."""

    nodes: list[Any]
    weights: dict[str, np.ndarray]


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
            self.nodes.append(node("Cast", [f"{name}/half"], name, to=1))

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
        self.nodes.append(node("Split", [standard, "channels"], *names, axis=3))
        units = [self._new("Div", name, self._new("ReduceL2", name, "last")) for name in names]
        self.nodes.append(node("Mul", [self._new("Concat", *units, axis=3), "share"], features))

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
        self.nodes.append(node(kind, inputs, name, **attributes))
        return name


def filter_constants() -> dict[str, np.ndarray]:
    """What `consensus.masks_at_size` takes beside attention and images, in its order."""
    return {
        "guide_area": np.asarray(guided_filter.SIDE**2, np.float32),
        "radius": np.asarray(guided_filter.RADIUS),
        "smoothness": np.asarray(guided_filter.SMOOTHNESS, np.float32),
    }


def call(name: str, inputs: Sequence[str], *outputs: str) -> Any:
    """A call of a function of `export.consensus`."""
    return node(name, inputs, *outputs, domain="this")


def node(kind: str, inputs: Sequence[str], *outputs: str, domain: str = "", **attributes: Any) -> Any:
    """A node; `domain` "this" calls a function of `export.consensus`."""
    from onnx import helper

    return helper.make_node(kind, inputs, outputs, domain=domain, **attributes)


def model_of(
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
