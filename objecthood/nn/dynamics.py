"""Slot predictors: slots of frame t to initial slots of frame t + 1.

Kipf et al. 2022, "Conditional Object-Centric Learning from Video" (SAVi, arXiv 2111.12594), section 3.3: a
transformer block over the slots, which models interactions (collisions, occlusion). Differences from the
paper: pre-norm instead of post-norm, and zero-initialised output layers, so an untrained predictor is the
identity. `ResidualPredictor` treats slots independently; `torch.nn.Identity` propagates them unchanged.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.initialization import glorot, zero


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each with a residual connection; initially the identity.

    Args:
        dim: size of a vector.
        heads: attention heads (SAVi: 4); a divisor of `dim`.
        hidden_dim: width of the MLP (SAVi: 256).
        norm_epsilon: of both layer norms (Keras' default; PyTorch's: 1e-5).

    Raises:
        ValueError: `heads` does not divide `dim`.

    Example:
        >>> import torch
        >>> queries, slots = torch.randn(2, 9, 64), torch.randn(2, 6, 64)
        >>> bool((TransformerBlock(64)(queries, slots) == queries).all())
        True
    """

    def __init__(self, dim: int, heads: int = 4, hidden_dim: int = 256, norm_epsilon: float = 1e-3):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"`heads` (={heads}) must be at least 1 and divide `dim` (={dim})")
        self.heads = heads
        self.norm_attention, self.norm_mlp = (nn.LayerNorm(dim, eps=norm_epsilon) for _ in range(2))
        self.project_in = glorot(nn.Linear(dim, 3 * dim))
        self.project_out = zero(nn.Linear(dim, dim))
        self.mlp = nn.Sequential(
            glorot(nn.Linear(dim, hidden_dim)), nn.ReLU(), zero(nn.Linear(hidden_dim, dim))
        )

    def forward(
        self,
        vectors: Float[Tensor, "batch number dim"],
        memory: Float[Tensor, "batch others dim"] | None = None,
    ) -> Float[Tensor, "batch number dim"]:
        """Vectors that have attended to each other, or to `memory`."""
        normalised = self.norm_attention(vectors)
        if memory is None:
            parts = self.project_in(normalised).chunk(3, dim=-1)
        else:
            (q, kv), (q_bias, kv_bias) = (
                whole.tensor_split([len(whole) // 3])
                for whole in (self.project_in.weight, self.project_in.bias)
            )
            parts = F.linear(normalised, q, q_bias), *F.linear(memory, kv, kv_bias).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        context = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        vectors = vectors + self.project_out(context)
        return vectors + self.mlp(self.norm_mlp(vectors))


class TransformerPredictor(TransformerBlock):
    """Slots attend to each other (SAVi): initial slots of the next frame.

    Example:
        >>> import torch
        >>> slots = torch.randn(2, 6, 64)
        >>> bool((TransformerPredictor(64)(slots) == slots).all())
        True
    """


class ResidualPredictor(nn.Module):
    """A residual MLP on each slot; initially the identity.

    Example:
        >>> import torch
        >>> ResidualPredictor(64)(torch.randn(2, 6, 64)).shape
        torch.Size([2, 6, 64])
    """

    def __init__(self, dim: int, hidden_dim: int = 256):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-3)
        self.mlp = nn.Sequential(
            glorot(nn.Linear(dim, hidden_dim)), nn.ReLU(), zero(nn.Linear(hidden_dim, dim))
        )

    def forward(self, slots: Float[Tensor, "batch slots dim"]) -> Float[Tensor, "batch slots dim"]:
        """Initial slots of the next frame."""
        return slots + self.mlp(self.norm(slots))
