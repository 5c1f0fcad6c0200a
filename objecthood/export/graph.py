"""A module to an ONNX graph whose batch and number of slots stay open; graphs to one graph with a loop.

Traced by `torch.export` and translated by `torch.onnx` (onnxscript). Two operations that ONNX has not, a
running maximum and the solution of linear equations, are written out in ones that it has; and long sums of
products are taken in blocks, as PyTorch does and onnxruntime does not.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MAX_BATCH, MAX_SLOTS = 4096, 256
"""What traced graphs are promised to meet at most; `torch.export` asks for bounds."""
_LONG, _BLOCK = 2048, 64
"""Numbers from which a sum of products is long, and those of a block."""
_FOLDED = 64 * 1024
"""Bytes up to which a constant is computed beforehand; larger ones would only make files large."""


def trace(
    module: nn.Module, inputs: dict[str, Tensor], open_axes: dict[str, str], outputs: Sequence[str]
) -> ModelProto:
    """The ONNX graph of `module`, with named inputs and outputs.

    Args:
        module: in the state (training or not) that it is to have.
        inputs: name -> example, in the order of the arguments; a batch of 3 with 5 slots or so: sizes of 1,
            and sizes that happen to be equal, would be taken for constants.
        open_axes: name of an input -> letters of its first axes that stay open: "b" batch, "s" slots.
        outputs: names, in order.
    """
    import onnx_ir
    from onnxscript import optimizer

    open_sizes = {"b": Dim("batch", min=1, max=MAX_BATCH), "s": Dim("slots", min=1, max=MAX_SLOTS)}
    shapes = tuple(
        {axis: open_sizes[letter] for axis, letter in enumerate(open_axes.get(name, ""))} for name in inputs
    )
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
        aten = torch.ops.aten
        program = program.run_decompositions(
            {
                aten.cummax.default: running_maximum,
                aten.linalg_solve.default: solve,
                aten.matmul.default: multiply_in_blocks,
            }
        )
        # The exporter's own optimization leaves dangling names behind (onnxscript 0.7); folding does not.
        exported = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            external_data=False,
            optimize=False,
            verbose=False,
        )
        assert exported is not None
        graph = exported.model
        optimizer.inline(graph)
        optimizer.fold_constants(graph, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
        optimizer.remove_unused_nodes(graph)
        optimizer.remove_unused_functions(graph)
        model = onnx_ir.to_proto(graph)
    del model.graph.value_info[:]  # shapes within, by names that graphs put together would share
    return model


def running_maximum(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`torch.cummax` of finite numbers, as the maximum of a window that reaches back to the first; the second
    output, where the maximum lies, is left at 0.

    Example:
        >>> running_maximum(torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0]), 0)[0]
        tensor([1., 3., 3., 5., 5.])
    """
    size = tensor.shape[dim]
    rows = F.pad(tensor.movedim(dim, -1), (size - 1, 0), value=-torch.inf)
    maxima = F.max_pool1d(rows.flatten(0, -2)[None] if rows.ndim > 1 else rows[None], size, stride=1)
    maxima = maxima.view(*rows.shape[:-1], size).movedim(-1, dim)
    return maxima, torch.zeros_like(tensor, dtype=torch.int64)


def multiply_in_blocks(one: Tensor, other: Tensor) -> Any:
    """`one @ other` where rows are long, summed over blocks of `_BLOCK` first; else left as it is.

    One after the other, 4096 numbers in float32 lose a digit: the light on the ground that
    `nn.color_transforms` fits would be off by 1e-5, and ten iterations make 1e-3 of that.
    """
    size = one.shape[-1]
    if not isinstance(size, int) or size < _LONG or size % _BLOCK:
        return NotImplemented
    blocks = (size // _BLOCK, _BLOCK)
    left = one.unflatten(-1, blocks).movedim(-2, -3)
    return (left @ other.unflatten(-2, blocks)).sum(dim=-3)


def solve(matrix: Tensor, right: Tensor, *, left: bool = True) -> Tensor:
    """`torch.linalg.solve` of [batch, n, n] and [batch, n, columns], by elimination without a change of rows.

    For symmetric matrices without zero or negative eigenvalues, as in least squares; n steps are written out.

    Example:
        >>> solve(torch.tensor([[[2.0, 1.0], [1.0, 3.0]]]), torch.tensor([[[3.0], [4.0]]])).flatten()
        tensor([1., 1.])
    """
    assert left and matrix.ndim == right.ndim == 3
    size, both = matrix.shape[-1], torch.cat([matrix, right], dim=-1)
    for index in range(size):
        row = both[:, index : index + 1] / both[:, index : index + 1, index : index + 1]
        rest = both - both[:, :, index : index + 1] * row
        both = torch.cat([rest[:, :index], row, rest[:, index + 1 :]], dim=1)
    return both[..., size:]


def repeat(begin: ModelProto, step: ModelProto, finish: ModelProto, grid: tuple[int, int]) -> ModelProto:
    """One graph: `begin`, then `step` for as many iterations as its input `iterations` says, then `finish`.

    `begin` gives slots, inputs, bias; `step` takes these and gives slots, attention, bias, and the slots that
    are seen; `finish` takes the last and attention [batch, slots, *grid], and its outputs come first. All
    attention follows as "attention" [batch, iterations, slots, *grid].
    """
    import onnx
    from onnx import TensorProto, helper

    inputs, outputs = list(begin.graph.input), list(finish.graph.output)
    first, body, last = (
        _with_prefix(model.graph, prefix, kept)
        for model, prefix, kept in (
            (begin, "begin", {value.name for value in inputs}),
            (step, "step", set()),
            (finish, "finish", {value.name for value in outputs}),
        )
    )
    loop = _loop(body, [value.name for value in first.output])
    slots, attention = last.input[0].name, last.input[1].name
    shape = helper.make_tensor("attention_shape", TensorProto.INT64, [5], [0, 0, 0, *grid])
    newest = helper.make_tensor("newest", TensorProto.INT64, [], [-1])
    joints: list[NodeProto] = [
        loop,
        helper.make_node("Identity", ["slots"], [slots]),
        helper.make_node("Transpose", ["all_attention"], ["attention_flat"], perm=[1, 0, 2, 3]),
        helper.make_node("Reshape", ["attention_flat", "attention_shape"], ["attention"]),
        helper.make_node("Gather", ["attention", "newest"], [attention], axis=1),
    ]
    batch, number = (first.output[0].type.tensor_type.shape.dim[axis].dim_param for axis in (0, 1))
    dim = first.output[0].type.tensor_type.shape.dim[2].dim_value
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        [*first.node, *joints, *last.node],
        "objecthood",
        [*inputs, helper.make_tensor_value_info("iterations", TensorProto.INT64, [])],
        [
            *outputs,
            helper.make_tensor_value_info("slots", floats, [batch, number, dim]),
            helper.make_tensor_value_info("attention", floats, [batch, "iterations", number, *grid]),
        ],
        [*first.initializer, *body.initializer, *last.initializer, shape, newest],
    )
    model = helper.make_model(graph, opset_imports=begin.opset_import, ir_version=begin.ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def _loop(body: GraphProto, carried: Sequence[str]) -> NodeProto:
    """The ONNX loop around `body`; the inputs are seen from outside."""
    from onnx import TensorProto, helper

    slots_in, inputs_in, bias_in = body.input
    slots_out, attention_out, bias_out, seen_out = body.output
    slots, inputs, bias = carried
    seen_in = helper.make_tensor_value_info("seen_before", TensorProto.FLOAT, None)
    outside = helper.make_node("Identity", [inputs], [inputs_in.name])
    go_on = helper.make_node("Identity", ["go_on"], ["goes_on"])
    number = helper.make_tensor_value_info("iteration", TensorProto.INT64, [])
    condition = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    goes_on = helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])
    graph = helper.make_graph(
        [go_on, outside, *body.node],
        "iteration",
        [number, condition, slots_in, bias_in, seen_in],
        [goes_on, slots_out, bias_out, seen_out, attention_out],
    )
    outputs = ["last_slots", "last_bias", "slots", "all_attention"]
    return helper.make_node("Loop", ["iterations", "", slots, bias, slots], outputs, body=graph)


def _with_prefix(graph: GraphProto, prefix: str, kept: set[str]) -> GraphProto:
    """`graph` with every name but those `kept` made its own."""
    from onnx import GraphProto

    renamed = GraphProto()
    renamed.CopyFrom(graph)

    def own(name: str) -> str:
        return name if not name or name in kept else f"{prefix}/{name}"

    for node in renamed.node:
        assert not any(attribute.HasField("g") for attribute in node.attribute), "graphs within graphs"
        node.name = own(node.name)
        node.input[:] = [own(name) for name in node.input]
        node.output[:] = [own(name) for name in node.output]
    for value in (*renamed.input, *renamed.output, *renamed.initializer):
        value.name = own(value.name)
    return renamed


class _quiet:
    """Loggers that say errors only, for a while."""

    def __init__(self, *names: str):
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *problem: Any) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
