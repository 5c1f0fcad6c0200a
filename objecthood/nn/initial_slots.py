"""Initial slots: sampled from a learned Gaussian, learned queries, or conditioned on a box or centre.

Gaussian: Locatello et al. 2020 (arXiv 2006.15055), section 2.1; the number of slots is arbitrary.
Learned: Jia et al. 2023, "Improving Object-centric Learning with Query Optimization" (BO-QSA, arXiv
2210.08990), to be used with `SlotAttention(gradient="bilevel")`.
Conditioned: Kipf et al. 2022 (SAVi, arXiv 2111.12594), section 3.2.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.randomness import per_image
from objecthood.runtime import renamed


class GaussianSlots(nn.Module):
    """Slots sampled from a Gaussian with learned mean and log deviation, shared by all slots.

    Example:
        >>> GaussianSlots(num_slots=7, dim=64)(batch_size=2, num_slots=11).shape
        torch.Size([2, 11, 64])
    """

    def __init__(self, num_slots: int, dim: int):
        super().__init__()
        self.num_slots, self.dim = num_slots, dim
        # Keras' Glorot range for shape [1, 1, dim]: fan in 1, fan out dim. PyTorch's is smaller.
        limit = math.sqrt(6 / (1 + dim))
        self.slots_mu = nn.Parameter(torch.empty(1, 1, dim).uniform_(-limit, limit))
        self.slots_log_sigma = nn.Parameter(torch.empty(1, 1, dim).uniform_(-limit, limit))

    def forward(
        self,
        batch_size: int,
        num_slots: int | None = None,
        noise: Float[Tensor, "batch slots dim"] | None = None,
    ) -> Float[Tensor, "batch slots dim"]:
        """mean + deviation * `noise`; `noise` (standard normal) is drawn from the global generator unless
        given.

        Raises:
            ValueError: `num_slots` is below 1, or `noise` has another shape.
        """
        num_slots = check_number(self.num_slots if num_slots is None else num_slots)
        shape = (batch_size, num_slots, self.dim)
        noise = draw_noise(self.slots_mu, shape) if noise is None else check_noise(noise, shape)
        return self.slots_mu + self.slots_log_sigma.exp() * noise


class LearnedSlots(nn.Module):
    """One learned query per slot, the same for every image.

    With `noise_scale` above 0, noise in units of the deviation over queries is added, for random restarts.

    Fewer slots than learned are the first ones. Additional slots are sampled from a Gaussian with mean and
    deviation of the queries; with a `noise_scale` of 0 only these use `noise`.

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
        """The queries, repeated for each image; `noise` is standard normal, drawn unless given.

        Raises:
            ValueError: `num_slots` is below 1, or `noise` has another shape.
        """
        num_slots = check_number(self.num_slots if num_slots is None else num_slots)
        slots = self.queries[:, :num_slots].expand(batch_size, -1, -1)
        num_learned = self.queries.shape[1]
        if num_slots <= num_learned and not self.noise_scale:
            return slots
        shape = (batch_size, num_slots, self.dim)
        noise = draw_noise(self.queries, shape) if noise is None else check_noise(noise, shape)
        correction = min(1, num_learned - 1)  # deviation of a single query: 0, not nan
        mean = self.queries.mean(dim=1, keepdim=True)
        deviation = self.queries.std(dim=1, keepdim=True, correction=correction)
        moved = slots + self.noise_scale * deviation.detach() * noise[:, :num_learned]
        return torch.cat([moved, mean + deviation * noise[:, num_learned:]], dim=1)


class ConditionedSlots(nn.Module):
    """One slot per condition (box or centre), through a shared MLP.

    Kipf et al. 2022 (arXiv 2111.12594), section 3.2. The background's condition is all 0, that of an absent
    object all -1, so the background has an initial state of its own. (SAVi's released code uses 0 for both.)

    Equal conditions give equal slots, which attention alone cannot separate: the slots of absent objects have
    equal masks in every frame. In a softmax, m of them have m times the odds of one; in label maps (argmax)
    the first of them wins up to rounding, so they do not split a region. Training must keep their masks
    small. `nn.SpatialBias` can separate them, as it treats largest and smallest slots differently.

    Args:
        num_slots: number of slots and of conditions.
        dim: size of a slot.
        condition_dim: size of a condition: 4 for a box, 2 for a centre.
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
        """Initial slots; conditions are in [0, 1], all 0 for the background, all -1 for absent objects.

        Raises:
            ValueError: `conditions` has another shape than [batch, num_slots, condition_dim].
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
    """`num_slots` if it is an integer (or a torch.export SymInt) of at least 1, else ValueError."""
    if not isinstance(num_slots, int | torch.SymInt) or num_slots < 1:
        raise ValueError(f"`num_slots` (={num_slots!r}) must be a whole number, at least 1")
    return num_slots


def check_noise(noise: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """`noise` if it has `shape` [batch, slots, dim], else ValueError."""
    if tuple(noise.shape) != shape:
        raise ValueError(f"`noise` (shape {list(noise.shape)}) must be [batch, slots, dim] = {list(shape)}")
    return noise
