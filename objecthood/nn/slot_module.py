"""The contract of everything that groups features into slots: initial slots in, slots and attention out.

`Grouping`, the models and the recipes rely on this and on nothing else of a module; `grouping.SLOT_MODULES`
names the modules. To add one: a file with a subclass of `SlotModule`, and a line in that table.

| what holds                                   | `SlotAttention` | `SoftKMeans` | `SlotMLP`  |
|----------------------------------------------|-----------------|--------------|------------|
| attention sums to 1 over slots               | yes (1)         | yes          | yes (2)    |
| permuting inputs permutes the attention only | yes             | yes          | no (3)     |
| permuting the slots permutes the output      | yes             | yes          | no         |
| any number of slots and of inputs            | yes             | yes          | as built   |
| output slots can be iterated further         | yes             | no (4)       | no         |

(1) Over inputs with `competition="inputs"`. (2) It is uniform. (3) The MLP reads a grid in order; its uniform
attention does not change. (4) Slots are a projection of the means, so two calls differ from one of as many
iterations; `SoftKMeans.cluster` continues from means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from objecthood.nn.precision import check_dtypes

Prior: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""The attention of an iteration, and attention by contents alone -> what to add to the next logits."""


class SlotAttentionOutput(NamedTuple):
    """What the slots became, and which inputs they took on the way."""

    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots inputs"]
    """Softmax over slots of every iteration (before renormalisation over inputs); 0 at padded inputs. With
    `competition="inputs"` it is the softmax over inputs."""


class SlotModule(nn.Module):
    """What groups a set of inputs into slots, with the signature that all such modules share.

    Subclasses set the attributes below and define `forward`.
    """

    input_dim: int
    """Size of an input vector."""
    slot_dim: int
    """Size of a slot vector."""
    iterations: int
    """Iterations when a call names none; may be set."""
    norm_inputs: nn.Module
    """Normalises inputs, once; other readers of the same features use it, too."""
    attention_bias: Prior | None
    """Spatial bias of the attention logits (see `nn.attention_bias`); None: none."""

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs input_dim"],
        slots: Float[Tensor, "batch slots slot_dim"],
        iterations: int | None = None,
        mask: Bool[Tensor, "batch inputs"] | None = None,
        previous: Float[Tensor, "batch slots inputs"] | None = None,
    ) -> SlotAttentionOutput:
        """Slots and attention, beginning from `slots`.

        `mask` is True where an input is real, False where it is padding. Masked inputs may hold anything, NaN
        included; their attention is 0. An image whose inputs are all masked gets finite slots. `previous` is
        what the same slots attended to in the frame before this one: where there is a `attention_bias`, it then acts
        on the first iteration as well.

        Raises ValueError, naming the shapes, where the arguments do not fit together, and where they are
        float64 and the weights are not.
        """
        raise NotImplementedError


def check_call(
    module: SlotModule,
    weights: torch.dtype,
    inputs: Tensor,
    slots: Tensor,
    iterations: int,
    mask: Tensor | None,
) -> None:
    """ValueError, in one line, where a call of `module` for any number of inputs and slots does not fit; its
    weights have the type `weights`."""
    name = type(module).__name__
    tensors = (inputs, slots) if mask is None else (inputs, slots, mask)
    if not all(isinstance(tensor, Tensor) for tensor in tensors) or not isinstance(iterations, int):
        kinds = [type(one).__name__ for one in (*tensors, iterations)]
        raise ValueError(
            f"{name} needs tensors and a whole number of iterations; got {', '.join(kinds)}. Make "
            "arrays tensors with torch.as_tensor"
        )
    check_dtypes(name, weights, inputs=inputs, slots=slots)
    wrong = (
        inputs.ndim != 3
        or slots.ndim != 3
        or inputs.shape[0] != slots.shape[0]  # not `len`, which would fix the batch size of an export
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
