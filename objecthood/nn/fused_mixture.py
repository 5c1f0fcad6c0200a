"""What the slots paint together, in one pass: softmax over slots of mask logits, sum of mask * appearance.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), section 3.1.
Every pixel is mixed by itself; paintings are read once, in whatever layout and precision the decoder left
them, and masks and picture are written.

Differences from the paper: none. Paintings may have 16 bits; the softmax and the sum have 32 (64 for
float64).
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


def mix(
    appearance: Float[Tensor, "batch slots 3 height width"],
    mask_logits: Float[Tensor, "batch slots height width"],
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch slots height width"]]:
    """The mixed picture, and the masks: equals `plain_mix`.

    Has a gradient, also through the masks, but no second one. Raises ValueError for tensors that are not on a
    CUDA device.
    """
    kernels.check_device(appearance)
    picture, masks = _mix(appearance.flatten(-2), mask_logits.flatten(-2))
    size = mask_logits.shape[-2:]
    return picture.unflatten(-1, size), masks.unflatten(-1, size)


def plain_mix(
    appearance: Float[Tensor, "batch slots 3 height width"],
    mask_logits: Float[Tensor, "batch slots height width"],
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch slots height width"]]:
    """What `SlotAutoencoder` does with a painting.

    Example:
        >>> picture, masks = plain_mix(torch.rand(2, 7, 3, 8, 8), torch.randn(2, 7, 8, 8))
        >>> picture.shape, masks.shape
        (torch.Size([2, 3, 8, 8]), torch.Size([2, 7, 8, 8]))
    """
    appearance, mask_logits = (tensor.to(accumulator(tensor.dtype)) for tensor in (appearance, mask_logits))
    masks = mask_logits.softmax(dim=1)
    return (masks[:, :, None] * appearance).sum(dim=1), masks


@torch.library.custom_op(
    "objecthood::mix", mutates_args=(), schema="(Tensor appearance, Tensor mask_logits) -> (Tensor, Tensor)"
)
def _mix(appearance: Tensor, mask_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The picture [batch, 3, pixels] and masks of [batch, slots, 3, pixels] and [batch, slots, pixels]."""
    batch, num_slots, _, num_pixels = appearance.shape
    dtype = accumulator(appearance.dtype)
    picture = appearance.new_empty((batch, 3, num_pixels), dtype=dtype)
    masks = appearance.new_empty((batch, num_slots, num_pixels), dtype=dtype)
    _compiled()[0][_grid(masks)](
        *(appearance, mask_logits, picture, masks, num_slots, num_pixels),
        *(*appearance.stride(), *mask_logits.stride()),
        **_sizes(num_slots, dtype),
    )
    return picture, masks


@_mix.register_fake
def _(appearance: Any, mask_logits: Any) -> Any:
    (batch, num_slots, _, num_pixels), dtype = appearance.shape, accumulator(appearance.dtype)
    shapes = ((batch, 3, num_pixels), (batch, num_slots, num_pixels))
    return tuple(appearance.new_empty(shape, dtype=dtype) for shape in shapes)


@torch.library.custom_op(
    "objecthood::mix_backward",
    mutates_args=(),
    schema="(Tensor appearance, Tensor masks, Tensor? picture_gradient, Tensor? masks_gradient) "
    "-> (Tensor, Tensor)",
)
def _mix_backward(
    appearance: Tensor, masks: Tensor, picture_gradient: Tensor | None, masks_gradient: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients to appearance, in its type, and to mask logits, in the masks'."""
    appearance_gradient = torch.empty(appearance.shape, dtype=appearance.dtype, device=appearance.device)
    logits_gradient = torch.empty_like(masks)
    _compiled()[1][_grid(masks)](
        *(appearance, masks, picture_gradient, masks_gradient, appearance_gradient, logits_gradient),
        *(*masks.shape[1:], *appearance.stride()),
        **_sizes(masks.shape[1], masks.dtype),
    )
    return appearance_gradient, logits_gradient


@_mix_backward.register_fake
def _(appearance: Any, masks: Any, *_: Any) -> Any:
    return appearance.new_empty(appearance.shape), masks.new_empty(masks.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.logits_dtype = inputs[1].dtype
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, picture: Tensor | None, masks: Tensor | None) -> tuple[Tensor, Tensor]:
    dense = [tensor if tensor is None else tensor.contiguous() for tensor in (picture, masks)]
    to_appearance, to_logits = _mix_backward(*ctx.saved_tensors, *dense)
    return to_appearance, to_logits.to(ctx.logits_dtype)


_mix.register_autograd(_backward, setup_context=_keep)


def _grid(masks: Tensor) -> tuple[int, int]:
    batch, _, num_pixels = masks.shape
    return batch, -(-num_pixels // kernels.BLOCK_PIXELS)


def _sizes(num_slots: int, dtype: torch.dtype) -> dict[str, Any]:
    """What a kernel is compiled for."""
    kind = tl.float64 if dtype == torch.float64 else tl.float32
    return {"SLOTS": tile(num_slots, least=2), "BLOCK": kernels.BLOCK_PIXELS, "KIND": kind}


@cache
def _compiled() -> tuple[Any, Any]:
    """The two functions below, compiled for each kind of input at its first launch."""
    global tl
    tl, jit = kernels.load_triton()
    return jit(_mix_kernel), jit(_mix_backward_kernel)


def _mix_kernel(  # type: ignore[no-untyped-def]
    appearance,
    mask_logits,
    picture,
    masks,
    num_slots,
    num_pixels,
    batch_stride,
    slot_stride,
    channel_stride,
    pixel_stride,
    logits_batch_stride,
    logits_slot_stride,
    logits_pixel_stride,
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    """One block of pixels of one picture; tiles are [slots, pixels]."""
    batch, slot = tl.program_id(0).to(tl.int64), tl.arange(0, SLOTS)[:, None]
    pixel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    real = (slot < num_slots) & (pixel < num_pixels)
    logits = batch * logits_batch_stride + slot * logits_slot_stride + pixel * logits_pixel_stride
    score = tl.load(mask_logits + logits, mask=real, other=0.0).to(KIND)
    score = tl.where(slot < num_slots, score, float("-inf"))
    share = tl.exp(score - tl.max(score, axis=0)[None, :])
    share = share / tl.sum(share, axis=0)[None, :]
    tl.store(masks + (batch * num_slots + slot) * num_pixels + pixel, share, mask=real)
    painted = batch * batch_stride + slot * slot_stride + pixel * pixel_stride
    for channel in tl.static_range(3):
        paint = tl.load(appearance + painted + channel * channel_stride, mask=real, other=0.0).to(KIND)
        mixed = tl.sum(share * paint, axis=0)[None, :]
        tl.store(picture + (batch * 3 + channel) * num_pixels + pixel, mixed, mask=pixel < num_pixels)


def _mix_backward_kernel(  # type: ignore[no-untyped-def]
    appearance,
    masks,
    picture_gradient,
    masks_gradient,
    appearance_gradient,
    logits_gradient,
    num_slots,
    num_pixels,
    batch_stride,
    slot_stride,
    channel_stride,
    pixel_stride,
    SLOTS: tl.constexpr,
    BLOCK: tl.constexpr,
    KIND: tl.constexpr,
):
    """One block of pixels of one picture, as above."""
    batch, slot = tl.program_id(0).to(tl.int64), tl.arange(0, SLOTS)[:, None]
    pixel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    real = (slot < num_slots) & (pixel < num_pixels)
    dense = (batch * num_slots + slot) * num_pixels + pixel
    share = tl.load(masks + dense, mask=real, other=0.0)
    to_share = tl.zeros([SLOTS, BLOCK], KIND)
    if masks_gradient is not None:
        to_share += tl.load(masks_gradient + dense, mask=real, other=0.0)
    painted = batch * batch_stride + slot * slot_stride + pixel * pixel_stride
    for channel in tl.static_range(3):
        slope = tl.zeros([1, BLOCK], KIND)
        if picture_gradient is not None:
            place = picture_gradient + (batch * 3 + channel) * num_pixels + pixel
            slope += tl.load(place, mask=pixel < num_pixels, other=0.0)
        paint = tl.load(appearance + painted + channel * channel_stride, mask=real, other=0.0).to(KIND)
        to_share += slope * paint
        out = ((batch * num_slots + slot) * 3 + channel) * num_pixels + pixel
        tl.store(appearance_gradient + out, share * slope, mask=real)
    to_score = share * (to_share - tl.sum(share * to_share, axis=0)[None, :])
    tl.store(logits_gradient + dense, to_score, mask=real)
