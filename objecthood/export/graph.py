"""Trace modules to ONNX graphs with dynamic batch and number of slots, and join graphs around a loop.

`torch.export` traces and `torch.onnx` (onnxscript) translates. Two operations missing in ONNX, cumulative
maximum and linear solve, are replaced as they are called, and so is `linspace`, whose number of steps would
become a constant. Long dot products are summed in blocks, as in PyTorch.
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
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

MAX_BATCH, MAX_SLOTS, MAX_SIDE = 4096, 256, 512
EXAMPLE_GRID = 5, 7
"""Rows and columns of the features that models of photographs are traced with."""
"""Upper bounds of the dynamic axes, which `torch.export` requires."""
_LONG, _BLOCK = 2048, 64
"""Length from which a dot product is summed in blocks, and the length of a block."""
_FOLDED = 64 * 1024
"""Largest constant that is folded, in bytes; larger ones would inflate the file."""


def trace(
    module: nn.Module,
    inputs: dict[str, Tensor],
    open_axes: dict[str, str],
    outputs: Sequence[str],
    opset: int | None = None,
) -> ModelProto:
    """The ONNX graph of `module`, with named inputs and outputs.

    Args:
        module: in the mode (training or eval) to export.
        inputs: name -> example, in the order of the arguments. Dynamic axes need distinct sizes above 1, such
            as a batch of 3 with 5 slots: size 1 and equal sizes would be specialised.
        open_axes: name of an input -> a letter for each leading axis: "b" batch, "s" slots, "r" rows and "c"
            columns are dynamic, "-" is fixed.
        outputs: names, in order.
        opset: version of ONNX's operators; the exporter's own by default.
    """
    import onnx_ir
    from onnxscript import optimizer

    open_sizes = {
        "b": Dim("batch", min=1, max=MAX_BATCH),
        "s": Dim("slots", min=1, max=MAX_SLOTS),
        "r": Dim("rows", min=1, max=MAX_SIDE),
        "c": Dim("columns", min=1, max=MAX_SIDE),
    }
    shapes = tuple(
        {
            axis: open_sizes[letter]
            for axis, letter in enumerate(open_axes.get(name, ""))
            if letter in open_sizes
        }
        for name in inputs
    )
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript", "onnx_ir"):
        warnings.simplefilter("ignore")  # internal warnings of the exporter
        with _ReplacedCalls():
            program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
        # The exporter's own optimization leaves dangling names behind (onnxscript 0.7); folding does not.
        exported = torch.onnx.export(
            program,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=opset,
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
    del model.graph.value_info[:]  # inner shapes, whose names would clash in joined graphs
    return model


class _ReplacedCalls(TorchFunctionMode):
    """Context manager in which calls of what ONNX lacks, and long products, are replaced.

    Decompositions of the traced program would do the same, and take as long as the tracing again.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in (torch.cummax, Tensor.cummax):
            return torch.return_types.cummax(running_maximum(*args, **kwargs))
        if function is torch.linspace:
            return evenly_spaced(*args, **kwargs)
        if function is torch.linalg.solve:
            return solve(*args, **kwargs)
        if function in (torch.matmul, Tensor.matmul, Tensor.__matmul__):
            product = multiply_in_blocks(*args, **kwargs)
            if product is not NotImplemented:
                return product
        return function(*args, **kwargs)


def running_maximum(tensor: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """`torch.cummax` of finite numbers by max pooling; the second output, the indices, is 0.

    Example:
        >>> running_maximum(torch.tensor([1.0, 3.0, 2.0, 5.0, 4.0]), 0)[0]
        tensor([1., 3., 3., 5., 5.])
    """
    size = tensor.shape[dim]
    rows = F.pad(tensor.movedim(dim, -1), (size - 1, 0), value=-torch.inf)
    maxima = F.max_pool1d(rows.flatten(0, -2)[None] if rows.ndim > 1 else rows[None], size, stride=1)
    maxima = maxima.view(*rows.shape[:-1], size).movedim(-1, dim)
    return maxima, torch.zeros_like(tensor, dtype=torch.int64)


def evenly_spaced(start: float, end: float, steps: int, **kind: Any) -> Tensor:
    """`torch.linspace` for a number of steps, at least 1, that is not known when the graph is traced.

    Example:
        >>> evenly_spaced(0, 1, 5), evenly_spaced(0, 1, 1)
        (tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000]), tensor([0.]))
    """
    kind["dtype"] = kind.get("dtype") or torch.get_default_dtype()
    places = torch.arange(steps, **kind)
    return start + (end - start) * places / places[-1].clamp_min(1)


def multiply_in_blocks(one: Tensor, other: Tensor) -> Any:
    """`one @ other`, summed over blocks of `_BLOCK` for long rows; NotImplemented otherwise.

    A sequential float32 sum of 4096 numbers loses a digit: the background illumination fitted by
    `nn.color_transforms` would be off by 1e-5, which ten iterations amplify to 1e-3.
    """
    size = one.shape[-1]
    if not isinstance(size, int) or size < _LONG or size % _BLOCK:
        return NotImplemented
    blocks = (size // _BLOCK, _BLOCK)
    left = one.unflatten(-1, blocks).movedim(-2, -3)
    return (left @ other.unflatten(-2, blocks)).sum(dim=-3)


def solve(matrix: Tensor, right: Tensor, *, left: bool = True) -> Tensor:
    """`torch.linalg.solve` of [batch, n, n] and [batch, n, columns], by Gaussian elimination without
    pivoting.

    For symmetric positive definite matrices, as in least squares; the n steps are unrolled.

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


def repeat(
    first_stage: ModelProto, step: ModelProto, last_stage: ModelProto, grid: tuple[int, int]
) -> ModelProto:
    """One graph: `first_stage`, then `step` in a loop of `iterations` (a new input), then `last_stage`.

    `first_stage` returns slots, inputs, bias. `step` takes these and returns slots, attention, bias and the
    slots to decode. `last_stage` takes the latter and attention [batch, slots, *grid]. The outputs are those
    of `last_stage`, "slots", and "attention" [batch, iterations, slots, *grid].
    """
    import onnx
    from onnx import TensorProto, helper

    inputs, outputs = list(first_stage.graph.input), list(last_stage.graph.output)
    first, body, last = (
        _with_prefix(model.graph, prefix, kept)
        for model, prefix, kept in (
            (first_stage, "begin", {value.name for value in inputs}),
            (step, "step", set()),
            (last_stage, "finish", {value.name for value in outputs}),
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
    model = helper.make_model(
        graph, opset_imports=first_stage.opset_import, ir_version=first_stage.ir_version
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _loop(body: GraphProto, carried: Sequence[str]) -> NodeProto:
    """The ONNX Loop node around `body`; the encoder inputs are captured from the outer graph."""
    from onnx import TensorProto, helper

    slots_in, inputs_in, bias_in = body.input
    slots_out, attention_out, bias_out, decoded_out = body.output
    slots, inputs, bias = carried
    decoded_in = helper.make_tensor_value_info("seen_before", TensorProto.FLOAT, None)
    outside = helper.make_node("Identity", [inputs], [inputs_in.name])
    go_on = helper.make_node("Identity", ["go_on"], ["goes_on"])
    number = helper.make_tensor_value_info("iteration", TensorProto.INT64, [])
    condition = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    goes_on = helper.make_tensor_value_info("goes_on", TensorProto.BOOL, [])
    graph = helper.make_graph(
        [go_on, outside, *body.node],
        "iteration",
        [number, condition, slots_in, bias_in, decoded_in],
        [goes_on, slots_out, bias_out, decoded_out, attention_out],
    )
    outputs = ["last_slots", "last_bias", "slots", "all_attention"]
    return helper.make_node("Loop", ["iterations", "", slots, bias, slots], outputs, body=graph)


def _with_prefix(graph: GraphProto, prefix: str, kept: set[str]) -> GraphProto:
    """`graph` with a prefix on every name except those `kept`."""
    from onnx import GraphProto

    renamed = GraphProto()
    renamed.CopyFrom(graph)

    def own(name: str) -> str:
        return name if not name or name in kept else f"{prefix}/{name}"

    for node in renamed.node:
        assert not any(attribute.HasField("g") for attribute in node.attribute), "nested graph"
        node.name = own(node.name)
        node.input[:] = [own(name) for name in node.input]
        node.output[:] = [own(name) for name in node.output]
    for value in (*renamed.input, *renamed.output, *renamed.initializer):
        value.name = own(value.name)
    return renamed


class _quiet:
    """Context manager that restricts loggers to errors."""

    def __init__(self, *names: str):
        self.loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *problem: Any) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)


def check_difference(name: str, difference: float, tolerance: float, where: str = "") -> None:
    """ValueError for an output that differs from PyTorch by more than `tolerance`, or by nan; `where` tells
    the input."""
    if not difference <= tolerance:
        raise ValueError(
            f"{name} of the exported graph differs from PyTorch by {difference:.1e}{where}, more than "
            f"{tolerance}; no file was written. Try other versions of onnxscript and onnxruntime"
        )
