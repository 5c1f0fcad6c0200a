"""Interface of slot modules: features and initial slots in, slots and attention out.

`Grouping`, models and recipes use this interface only. To add a module, subclass `SlotModule` and add a line
to `grouping.SLOT_MODULES`.

| property                               | set (1) | `SlotMixture` | k-means (2) | invariant (3) | `SlotMLP` |
|----------------------------------------|---------|---------------|-------------|---------------|-----------|
| attention sums to 1 over slots         | yes (4) | yes           | yes         | yes           | yes (5)   |
| permuted inputs permute attention only | yes     | yes           | yes         | no            | no (6)    |
| permuted slots permute the output      | yes     | yes           | yes         | yes           | no        |
| any number of slots                    | yes     | yes           | yes         | yes           | as built  |
| any number of inputs                   | yes     | yes           | yes         | as built      | as built  |
| attention bias                         | yes     | yes           | yes         | yes           | ignored   |
| output slots can be iterated on        | yes     | no (7)        | no (7)      | no (8)        | no        |
| stages for export                      | yes     | no            | no          | no            | no        |

(1) `SlotAttention`, `MultiHeadSlotAttention`, `MESH` (in evaluation: training adds noise), `AdaSlot`, and,
but for the last two lines, `MetaSlot` (in evaluation; of slots that share a prototype, the first is left).
(2) `SoftKMeans` and `KMeans`, whose attention is 0 or 1. (3) `InvariantSlotAttention`. (4) Over inputs with
`competition="inputs"`; in `MultiHeadSlotAttention` the mean over heads. (5) It is uniform. (6) The MLP
depends on the order of the grid; its uniform attention does not. (7) Slots are a projection of means (and
variances), so two calls differ from one call with as many iterations; `SoftKMeans.cluster` continues from
means. (8) A call starts from the image's frame or, with `previous`, from the frames of an attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.precision import check_dtypes

AttentionBias: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Attention of an iteration and its content-only attention -> bias of the next logits."""


class SlotAttentionOutput(NamedTuple):
    """Slots after the last iteration, and the attention of every iteration."""

    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots inputs"]
    """Softmax over slots of every iteration (before renormalisation over inputs); 0 at padded inputs. With
    `competition="inputs"` it is the softmax over inputs."""


class SlotModule(nn.Module):
    """Base class of slot modules; subclasses set the attributes below and define `forward`."""

    input_dim: int
    """Size of an input vector."""
    slot_dim: int
    """Size of a slot vector."""
    iterations: int
    """Default number of iterations; may be set."""
    norm_inputs: nn.Module
    """Normalisation of inputs, also used by readouts of the same features."""
    attention_bias: AttentionBias | None
    """Spatial bias of the attention logits (see `nn.attention_bias`); None: none."""
    drops_slots = False
    """Whether `keep` drops slots."""

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        slots: Float[Tensor, "batch slots slot_dim"],
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> SlotAttentionOutput:
        """Updated slots and attention.

        Args:
            inputs: features, in any order.
            slots: initial slots.
            iterations: number of iterations, at least 1 (default: `self.iterations`).
            mask: True at real inputs, False at padding, which may hold any value, NaN included; attention to
                padding is 0. An image whose inputs are all masked gets finite slots.
            previous: attention of the same slots in the previous frame; the `attention_bias`, if any, then
                acts on the first iteration as well.

        Raises:
            ValueError: shapes do not match, or a tensor is float64 and the weights are not.
        """
        raise NotImplementedError

    def keep(
        self,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch slots inputs"],
    ) -> Float[Tensor, "batch slots"] | None:
        """Which slots a decoder uses, for the `slots` it gets and the last `attention`: 1, or 0 for dropped
        ones; None: all (the default).

        Differentiable, and possibly random in training. `SlotAutoencoder` and `SlotVideo` apply it to their
        decoders (`decoders.drop_slots`).
        """
        return None

    def penalty(self, slots: Float[Tensor, "batch slots slot_dim"]) -> Float[Tensor, ""] | None:
        """Term that discovery and video recipes add to the loss, for output `slots`; None: none (the
        default)."""
        return None


def check_call(
    module: SlotModule,
    weights: torch.dtype,
    inputs: Tensor,
    slots: Tensor,
    iterations: int,
    mask: Tensor | None,
) -> None:
    """Raise ValueError for invalid arguments of `module.forward`; `weights` is the dtype of its weights."""
    name = type(module).__name__
    tensors = (inputs, slots) if mask is None else (inputs, slots, mask)
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or not isinstance(iterations, int):
        kinds = [type(one).__name__ for one in (*tensors, iterations)]
        raise ValueError(
            f"{name} needs tensors and an integer number of iterations; got {', '.join(kinds)}. Convert "
            "arrays with torch.as_tensor"
        )
    check_dtypes(name, weights, inputs=inputs, slots=slots)
    wrong = (
        inputs.ndim != 3
        or slots.ndim != 3
        or inputs.shape[0] != slots.shape[0]  # `len` would fix the batch size of an export
        or inputs.shape[1] < 1
        or slots.shape[1] < 1
        or inputs.shape[2] != module.input_dim
        or slots.shape[2] != module.slot_dim
        or iterations < 1
        or (mask is not None and (mask.shape != inputs.shape[:2] or mask.dtype != torch.bool))
    )
    if wrong:
        raise ValueError(
            f"{name} needs inputs [batch, inputs >= 1, input_dim={module.input_dim}], slots [batch, "
            f"slots >= 1, slot_dim={module.slot_dim}], iterations >= 1, bool mask [batch, inputs] or none; "
            f"got inputs {list(inputs.shape)}, slots {list(slots.shape)}, iterations {iterations}, mask "
            f"{None if mask is None else list(mask.shape)}. Flatten feature maps to [batch, height * "
            f"width, channels]; make slots with GaussianSlots or LearnedSlots(..., dim={module.slot_dim})"
        )
