"""How slots are born: from one trained Gaussian that all share (the paper), as learned queries, one each, or
from a hint for each object.

Gaussian: Locatello et al. 2020 (arXiv 2006.15055), section 2.1. Equal but for their noise, slots can be any
number.
Learned: Jia et al. 2023, "Improving Object-centric Learning with Query Optimization" (BO-QSA, arXiv
2210.08990), to be used with `SlotAttention(gradient="bilevel")`.
Conditioned: Kipf et al. 2022 (SAVi, arXiv 2111.12594), section 3.2: an MLP of each object's box or centre.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.randomness import per_image
from objecthood.runtime import renamed


class GaussianSlots(nn.Module):
    """Slots drawn from a Gaussian whose mean and log deviation are trained and shared by all slots.

    Example:
        >>> GaussianSlots(num_slots=7, dim=64)(batch_size=2, num_slots=11).shape
        torch.Size([2, 11, 64])
    """

    def __init__(self, num_slots: int, dim: int):
        super().__init__()
        self.num_slots, self.dim = num_slots, dim
        # Keras' Glorot range for a weight of shape [1, 1, dim]: fan in 1, fan out dim. PyTorch's would be
        # smaller.
        limit = math.sqrt(6 / (1 + dim))
        self.slots_mu = nn.Parameter(torch.empty(1, 1, dim).uniform_(-limit, limit))
        self.slots_log_sigma = nn.Parameter(torch.empty(1, 1, dim).uniform_(-limit, limit))

    def forward(
        self,
        batch_size: int,
        num_slots: int | None = None,
        noise: Float[Tensor, "batch slots dim"] | None = None,
    ) -> Float[Tensor, "batch slots dim"]:
        """mean + deviation * `noise`; without `noise` (standard normal) it is drawn, from the global
        generator."""
        num_slots = check_number(self.num_slots if num_slots is None else num_slots)
        shape = (batch_size, num_slots, self.dim)
        noise = draw_noise(self.slots_mu, shape) if noise is None else check_noise(noise, shape)
        return self.slots_mu + self.slots_log_sigma.exp() * noise


class LearnedSlots(nn.Module):
    """One learned query per slot, the same for every image.

    With `noise_scale` above 0 they are moved by noise, in units of their deviation from each other, so that a
    image can be looked at from several starts.

    Asked for fewer slots than were learned, the first ones serve. Further slots are drawn from the Gaussian
    with the mean and deviation of the learned ones, so that a model can be tried on more objects than it was
    trained for; with a `noise_scale` of 0 only these use `noise`.

    Example:
        >>> LearnedSlots(num_slots=4, dim=64)(batch_size=2).shape
        torch.Size([2, 4, 64])
    """

    @renamed.arguments
    def __init__(self, num_slots: int, dim: int, noise_scale: float = 0.0):
        super().__init__()
        self.num_slots, self.dim, self.noise_scale = num_slots, dim, noise_scale
        self.queries = nn.Parameter(nn.init.xavier_uniform_(torch.empty(1, num_slots, dim)))

    def forward(
        self,
        batch_size: int,
        num_slots: int | None = None,
        noise: Float[Tensor, "batch slots dim"] | None = None,
    ) -> Float[Tensor, "batch slots dim"]:
        """The queries, once per image; `noise` (standard normal) shapes slots beyond the learned ones."""
        num_slots = check_number(self.num_slots if num_slots is None else num_slots)
        slots = self.queries[:, :num_slots].expand(batch_size, -1, -1)
        num_learned = self.queries.shape[1]
        if num_slots <= num_learned and not self.noise_scale:
            return slots
        shape = (batch_size, num_slots, self.dim)
        noise = draw_noise(self.queries, shape) if noise is None else check_noise(noise, shape)
        correction = min(1, num_learned - 1)  # a single query has no sample deviation: 0 then, not nan
        mean = self.queries.mean(dim=1, keepdim=True)
        deviation = self.queries.std(dim=1, keepdim=True, correction=correction)
        moved = slots + self.noise_scale * deviation.detach() * noise[:, :num_learned]
        return torch.cat([moved, mean + deviation * noise[:, num_learned:]], dim=1)


class ConditionedSlots(nn.Module):
    """A slot for each hint: the numbers that say where an object is, through an MLP that all share.

    Kipf et al. 2022 (arXiv 2111.12594), section 3.2. The background's hint is all 0, an absent object's all
    -1, so that the background begins in a state of its own. (SAVi's released code has 0 for both.)

    Equal hints give equal slots, and attention alone never tells them apart: the slots of absent objects have
    equal masks in every frame. In a softmax m of them together have m times the odds of one. In label maps,
    which take the largest single mask, they are no larger than one slot, and up to rounding the first of them
    gets all that they win. So they split no object and no background among them; training has to keep their
    masks small. A spatial bias (`nn.SpatialBias`) can separate them, as it treats the heaviest slot and the
    emptiest one, of equal slots the first, unlike the others.

    Args:
        num_slots: slots that a call gives; of hints there must be as many.
        dim: size of a slot.
        condition_dim: numbers per hint: 4 for a box, 2 for a centre.
        hidden_dim: width of the MLP (paper: 256).

    Example:
        >>> background, box, absent = [0.0] * 4, [0.1, 0.1, 0.4, 0.5], [-1.0] * 4
        >>> conditions = torch.tensor([[background, box, absent]])
        >>> ConditionedSlots(num_slots=3, dim=64, condition_dim=4)(conditions).shape
        torch.Size([1, 3, 64])
    """

    def __init__(self, num_slots: int, dim: int, condition_dim: int, hidden_dim: int = 256):
        super().__init__()
        self.num_slots, self.dim, self.condition_dim = num_slots, dim, condition_dim
        self.mlp = nn.Sequential(nn.Linear(condition_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, dim))

    def forward(
        self, conditions: Float[Tensor, "batch slots condition_dim"]
    ) -> Float[Tensor, "batch slots dim"]:
        """Initial slots; hints are in [0, 1], 0 throughout for the background, -1 throughout for a slot
        without an object.

        Raises:
            ValueError: the number or size of the hints is not the one of the module.
        """
        if conditions.ndim != 3 or conditions.shape[1:] != (self.num_slots, self.condition_dim):
            raise ValueError(
                f"`conditions` (shape {list(conditions.shape)}) must be [batch, slots={self.num_slots}, "
                f"numbers={self.condition_dim}], 0 for the background and -1 where a slot has no object"
            )
        return self.mlp(conditions)


def draw_noise(like: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal noise [batch, slots, dim], from the global generator, on the device of `like`."""
    return per_image(lambda size: like.new_empty((size, *shape[1:])).normal_(), shape[0])


def check_number(num_slots: int) -> int:
    """`num_slots` if it is a whole number (also one of torch.export's own) of at least 1, else ValueError."""
    if not isinstance(num_slots, int | torch.SymInt) or num_slots < 1:
        raise ValueError(f"`num_slots` (={num_slots!r}) must be a whole number, at least 1")
    return num_slots


def check_noise(noise: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`noise` if it has `shape` [batch, slots, dim], else ValueError."""
    if tuple(noise.shape) != shape:
        raise ValueError(f"`noise` (shape {list(noise.shape)}) must be [batch, slots, dim] = {list(shape)}")
    return noise
