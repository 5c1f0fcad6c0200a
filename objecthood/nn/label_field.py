"""A learned Markov random field of slots: a pixel's neighbours predict its slot.

With q the masks, e the error of each slot's layer at a pixel, in [0, 1], and K a kernel, mean field inference
(Zheng et al. 2015, "Conditional Random Fields as Recurrent Neural Networks", arXiv 1502.03240) repeats

    q = softmax over slots of (K * q + w log(mean of q over the image) - beta e)

w is given, 0 unless a slot's share of the image counts: learned in the same way it grows, and thin objects
shrink. K and beta are learned without labels, by pseudolikelihood (Besag 1975, "Statistical Analysis of
Non-Lattice Data"): the neighbours of a pixel, without the pixel itself, predict its slot, and the slots'
layers predict its value, with a density proportional to exp(-beta e).

Difference from Zheng et al.: one kernel for all slots, symmetric, in place of filters that follow colours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class LabelField(nn.Module):
    """Masks from the errors of layers.

    Args:
        reach: the kernel has a side of 2 reach + 1 pixels.
        strength, deviation: sum and deviation in pixels of the kernel at the start, a Gaussian.
        precision: beta at the start.

    Example:
        >>> errors = torch.zeros(1, 2, 8, 8)
        >>> errors[:, 0, :, 4:], errors[:, 1, :, :4] = 1.0, 1.0
        >>> errors[:, :, 2, 2] = errors.flip(1)[:, :, 2, 2]  # one pixel contradicts its neighbours
        >>> LabelField(precision=2.0)(errors, torch.full((1, 2, 8, 8), 0.5), 5).argmax(1)[0, 2].tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """

    def __init__(
        self,
        reach: int = 2,
        strength: float = 6.0,
        deviation: float = 0.8,
        precision: float = 6.0,
    ):
        super().__init__()
        square = (torch.arange(2 * reach + 1) - reach) ** 2
        kernel = torch.exp(-(square[:, None] + square) / (2 * deviation**2))
        self.kernel = nn.Parameter(strength * kernel / kernel.sum())
        self.log_precision = nn.Parameter(torch.tensor(math.log(precision)))

    def neighbours(
        self,
        masks: Float[Tensor, "batch slots height width"],
        share_weight: float = 0.0,
        centre: bool = True,
    ) -> Float[Tensor, "batch slots height width"]:
        """Logits by the masks of neighbours, and with `centre` of the pixel itself; w is `share_weight`."""
        kernel, reach = (self.kernel + self.kernel.flip(0, 1)) / 2, len(self.kernel) // 2
        if not centre:
            kernel = kernel * F.pad(kernel.new_zeros(1, 1), (reach,) * 4, value=1.0)
        padded = F.pad(masks, (reach,) * 4, mode="replicate")
        padded = padded.contiguous(memory_format=torch.channels_last)  # six times faster
        slots = masks.shape[1]
        messages = F.conv2d(padded, kernel.expand(slots, 1, -1, -1), groups=slots)
        share = masks.mean(dim=(2, 3), keepdim=True)
        return messages + share_weight * (share + 1e-4).log()

    def forward(
        self,
        errors: Float[Tensor, "batch slots height width"],
        masks: Float[Tensor, "batch slots height width"],
        iterations: int,
        share_weight: float = 0.0,
        empty: Bool[Tensor, "batch slots 1 1"] | None = None,
    ) -> Float[Tensor, "batch slots height width"]:
        """Masks after `iterations` of mean field from `masks`; slots that are `empty` stay so."""
        for _ in range(iterations):
            logits = self.neighbours(masks, share_weight) - self.log_precision.exp() * errors
            if empty is not None:
                logits = logits - 30.0 * empty
            masks = logits.softmax(dim=1)
        return masks

    def pseudolikelihood(
        self,
        errors: Float[Tensor, "batch slots height width"],
        masks: Float[Tensor, "batch slots height width"],
    ) -> Float[Tensor, ""]:
        """The negative logarithm, mean over pixels, of the pixels' likelihood given their neighbours."""
        precision = self.log_precision.exp()
        area = (1 - (-precision).exp()) / precision  # of exp(-beta e) over e in [0, 1]
        prior = self.neighbours(masks, centre=False).log_softmax(dim=1)
        return -(prior - precision * errors - area.log()).logsumexp(dim=1).mean()
