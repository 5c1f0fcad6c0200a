"""One round of slot attention in one pass over keys and values: a softmax over slots needs no second look.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), algorithm 1:
scores, softmax over slots, weighted mean. Every input is decided by itself, so that its scores stay on the
chip, and only the attention that is returned is written to memory.

With m a slot's sum of weights, u its update and g the gradient to u, the gradient to the weight of an input
with value v is (g / m) . v - (g / m) . u; the rest is that of a softmax and of two products.

Differences from the paper: none. Keys and values may have 16 bits; the softmax and all sums have 32 (64 for
float64). The gradient to 16-bit keys and values has 16 bits, also while it is summed over iterations, where
plain PyTorch sums it in 32.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from objecthood.nn import kernels
from objecthood.nn.kernels import accumulator, tile

if TYPE_CHECKING:
    import triton.language as tl


def attend(
    queries: Float[Tensor, "batch slots dim"],
    keys: Float[Tensor, "batch inputs dim"],
    values: Float[Tensor, "batch inputs dim"],
    bias: Float[Tensor, "batch slots inputs"] | None = None,
    epsilon: float = 1e-8,
) -> tuple[Float[Tensor, "batch slots dim"], Float[Tensor, "batch slots inputs"]]:
    """Each slot's weighted mean of the values, and the softmax over slots: equals `plain_attend`.

    Queries come scaled; `bias` is added to the scores. Has a gradient, also through the attention, but no
    second one. Raises ValueError for tensors that are not on a CUDA device.
    """
    kernels.check_device(keys)
    updates, attention, _ = _attend(queries, keys, values, bias, epsilon)
    return updates, attention


def plain_attend(
    queries: Float[Tensor, "batch slots dim"],
    keys: Float[Tensor, "batch inputs dim"],
    values: Float[Tensor, "batch inputs dim"],
    bias: Float[Tensor, "batch slots inputs"] | None = None,
    epsilon: float = 1e-8,
) -> tuple[Float[Tensor, "batch slots dim"], Float[Tensor, "batch slots inputs"]]:
    """What `SlotAttention.step` does between its two projections, without padding; keys and values are both
    the inputs there.

    Example:
        >>> queries, inputs = torch.randn(2, 7, 64), torch.randn(2, 100, 64)
        >>> updates, attention = plain_attend(queries, inputs, inputs)
        >>> updates.shape, attention.shape
        (torch.Size([2, 7, 64]), torch.Size([2, 7, 100]))
    """
    queries, keys, values = (tensor.to(accumulator(tensor.dtype)) for tensor in (queries, keys, values))
    logits = queries @ keys.transpose(1, 2)
    attention = (logits if bias is None else logits + bias).softmax(dim=1)
    weights = attention + epsilon
    return (weights @ values) / weights.sum(dim=-1, keepdim=True), attention


@torch.library.custom_op(
    "objecthood::attend",
    mutates_args=(),
    schema="(Tensor queries, Tensor keys, Tensor values, Tensor? bias, float epsilon) "
    "-> (Tensor, Tensor, Tensor)",
)
def _attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Updates, attention, and each slot's sum of weights [batch, slots]."""
    (batch, num_slots, dim), num_inputs = queries.shape, keys.shape[1]
    parts, blocks = _divide(batch, num_inputs)
    dtype = accumulator(queries.dtype)
    attention = queries.new_empty((batch, num_slots, num_inputs), dtype=dtype)
    sums = queries.new_empty((batch, parts, num_slots, dim), dtype=dtype)
    masses = queries.new_empty((batch, parts, num_slots), dtype=dtype)
    _compiled()[0][(batch, parts)](
        *_dense(queries, keys, values, bias),
        *(attention, sums, masses, num_slots, num_inputs, dim, blocks, epsilon),
        **_sizes(num_slots, dim, dtype),
    )
    mass = masses.sum(dim=1)
    return sums.sum(dim=1) / mass[..., None], attention, mass


@_attend.register_fake
def _(queries: Any, keys: Any, values: Any, bias: Any, epsilon: Any) -> Any:
    (batch, num_slots, dim), dtype = queries.shape, accumulator(queries.dtype)
    shapes = ((batch, num_slots, dim), (batch, num_slots, keys.shape[1]), (batch, num_slots))
    return tuple(queries.new_empty(shape, dtype=dtype) for shape in shapes)


@torch.library.custom_op(
    "objecthood::attend_backward",
    mutates_args=(),
    schema="(Tensor queries, Tensor keys, Tensor values, Tensor attention, Tensor slope, Tensor level, "
    "Tensor? attention_gradient, float epsilon) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _attend_backward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention: Tensor,
    slope: Tensor,
    level: Tensor,
    attention_gradient: Tensor | None,
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients to queries, keys, values and scores, given slope = g / m [batch, slots, dim] and level =
    slope . u [batch, slots]."""
    (batch, num_slots, dim), num_inputs = queries.shape, keys.shape[1]
    parts, blocks = _divide(batch, num_inputs)
    sums = slope.new_empty((batch, parts, num_slots, dim))
    gradients = [
        torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
        for tensor in (keys, values, attention)
    ]
    _compiled()[1][(batch, parts)](
        *_dense(queries, keys, values, attention, slope, level, attention_gradient),
        *(sums, *gradients, num_slots, num_inputs, dim, blocks, epsilon),
        **_sizes(num_slots, dim, attention.dtype),
    )
    return sums.sum(dim=1).to(queries.dtype), gradients[0], gradients[1], gradients[2]


@_attend_backward.register_fake
def _(queries: Any, keys: Any, values: Any, attention: Any, *_: Any) -> Any:
    return tuple(tensor.new_empty(tensor.shape) for tensor in (queries, keys, values, attention))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    queries, keys, values, bias, ctx.epsilon = inputs
    ctx.save_for_backward(queries, keys, values, *output)
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, updates: Tensor | None, attention: Tensor | None, mass: None) -> tuple[Any, ...]:
    queries, keys, values, *(updates_before, attention_before, masses) = ctx.saved_tensors
    slope = torch.zeros_like(updates_before) if updates is None else updates / masses[..., None]
    level = (slope * updates_before).sum(dim=-1)
    *gradients, scores = _attend_backward(
        queries, keys, values, attention_before, slope, level, attention, ctx.epsilon
    )
    return *gradients, None if ctx.bias_dtype is None else scores.to(ctx.bias_dtype), None


_attend.register_autograd(_backward, setup_context=_keep)


def _divide(batch: int, num_inputs: int) -> tuple[int, int]:
    """How many parts the inputs of a picture are cut into, one for each program, and blocks in a part."""
    blocks = -(-num_inputs // kernels.BLOCK_INPUTS)
    each = -(-blocks // max(1, kernels.PROGRAMS // batch))
    return -(-blocks // each), each


def _dense(*tensors: Tensor | None) -> list[Tensor | None]:
    return [tensor if tensor is None else tensor.contiguous() for tensor in tensors]


def _sizes(num_slots: int, dim: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a kernel is compiled for."""
    return {
        "SLOTS": tile(num_slots),
        "DIM": tile(dim),
        "BLOCK": kernels.BLOCK_INPUTS,
        "PRECISION": kernels.PRECISION,
        "KIND": tl.float64 if dtype == torch.float64 else tl.float32,
    }


@cache
def _compiled() -> tuple[Any, Any]:
    """The two functions below, compiled for each kind of input at its first launch."""
    global tl
    tl, jit = kernels.load_triton()
    return jit(_attend_kernel), jit(_attend_backward_kernel)


def _attend_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    bias,
    attention,
    sums,
    masses,
    num_slots,
    num_inputs,
    dim,
    blocks,
    epsilon,
    SLOTS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    KIND: tl.constexpr,
):
    """One part of the inputs of one picture; tiles are [slots, dim], [inputs, dim] and [slots, inputs]."""
    batch, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM)
    slots = (batch * num_slots + slot[:, None]) * dim + channel[None, :]
    real_slots = (slot[:, None] < num_slots) & (channel[None, :] < dim)
    query = tl.load(queries + slots, mask=real_slots, other=0.0).to(KIND)
    total = tl.zeros([SLOTS, DIM], KIND)
    mass = tl.zeros([SLOTS], KIND)
    for block in range(blocks):
        place = (part * blocks + block) * BLOCK + tl.arange(0, BLOCK)
        inputs = (batch * num_inputs + place[:, None]) * dim + channel[None, :]
        real_inputs = (place[:, None] < num_inputs) & (channel[None, :] < dim)
        pairs = (batch * num_slots + slot[:, None]) * num_inputs + place[None, :]
        real_pairs = (slot[:, None] < num_slots) & (place[None, :] < num_inputs)
        key = tl.load(keys + inputs, mask=real_inputs, other=0.0).to(KIND)
        value = tl.load(values + inputs, mask=real_inputs, other=0.0).to(KIND)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION, out_dtype=KIND)
        if bias is not None:
            score += tl.load(bias + pairs, mask=real_pairs, other=0.0).to(KIND)
        score = tl.where(slot[:, None] < num_slots, score, float("-inf"))
        share = tl.exp(score - tl.max(score, axis=0)[None, :])
        share = share / tl.sum(share, axis=0)[None, :]
        tl.store(attention + pairs, share, mask=real_pairs)
        weight = tl.where(real_pairs, share + epsilon, 0.0)
        total += tl.dot(weight, value, input_precision=PRECISION, out_dtype=KIND)
        mass += tl.sum(weight, axis=1)
    out = (batch * tl.num_programs(1) + part) * num_slots + slot
    tl.store(sums + out[:, None] * dim + channel[None, :], total, mask=real_slots)
    tl.store(masses + out, mass, mask=slot < num_slots)


def _attend_backward_kernel(  # type: ignore[no-untyped-def]
    queries,
    keys,
    values,
    attention,
    slopes,
    levels,
    attention_gradient,
    query_sums,
    key_gradient,
    value_gradient,
    score_gradient,
    num_slots,
    num_inputs,
    dim,
    blocks,
    epsilon,
    SLOTS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    KIND: tl.constexpr,
):
    """One part of the inputs of one picture, as above; the attention is read back, not computed again."""
    batch, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot, channel = tl.arange(0, SLOTS), tl.arange(0, DIM)
    slots = (batch * num_slots + slot[:, None]) * dim + channel[None, :]
    real_slots = (slot[:, None] < num_slots) & (channel[None, :] < dim)
    query = tl.load(queries + slots, mask=real_slots, other=0.0).to(KIND)
    slope = tl.load(slopes + slots, mask=real_slots, other=0.0)
    level = tl.load(levels + batch * num_slots + slot, mask=slot < num_slots, other=0.0)
    total = tl.zeros([SLOTS, DIM], KIND)
    for block in range(blocks):
        place = (part * blocks + block) * BLOCK + tl.arange(0, BLOCK)
        inputs = (batch * num_inputs + place[:, None]) * dim + channel[None, :]
        real_inputs = (place[:, None] < num_inputs) & (channel[None, :] < dim)
        pairs = (batch * num_slots + slot[:, None]) * num_inputs + place[None, :]
        real_pairs = (slot[:, None] < num_slots) & (place[None, :] < num_inputs)
        key = tl.load(keys + inputs, mask=real_inputs, other=0.0).to(KIND)
        value = tl.load(values + inputs, mask=real_inputs, other=0.0).to(KIND)
        share = tl.load(attention + pairs, mask=real_pairs, other=0.0)
        to_share = tl.dot(slope, tl.trans(value), input_precision=PRECISION, out_dtype=KIND) - level[:, None]
        if attention_gradient is not None:
            to_share += tl.load(attention_gradient + pairs, mask=real_pairs, other=0.0)
        to_score = share * (to_share - tl.sum(share * to_share, axis=0)[None, :])
        tl.store(score_gradient + pairs, to_score, mask=real_pairs)
        total += tl.dot(to_score, key, input_precision=PRECISION, out_dtype=KIND)
        to_key = tl.dot(tl.trans(to_score), query, input_precision=PRECISION, out_dtype=KIND)
        tl.store(key_gradient + inputs, to_key, mask=real_inputs)
        weight = tl.where(real_pairs, share + epsilon, 0.0)
        to_value = tl.dot(tl.trans(weight), slope, input_precision=PRECISION, out_dtype=KIND)
        tl.store(value_gradient + inputs, to_value, mask=real_inputs)
    out = (batch * tl.num_programs(1) + part) * num_slots + slot
    tl.store(query_sums + out[:, None] * dim + channel[None, :], total, mask=real_slots)
