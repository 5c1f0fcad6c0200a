"""What training minimises: pure functions of model outputs and targets."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from objecthood.nn.matching import assign


def reconstruction_error(
    reconstruction: Float[Tensor, "batch 3 height width"],
    images: Float[Tensor, "batch 3 height width"],
    view: Callable[..., Tensor] = lambda image, reference=None: 2 * image - 1,
) -> Float[Tensor, ""]:
    """Mean squared error over pixels, channels and batch, in the paper's units: pictures in [-1, 1].

    Both arguments are in [0, 1] units; `view` says in what they are compared, given the picture (see
    `nn.views`). Locatello et al. 2020 (arXiv 2006.15055), section 3.1.
    """
    return (view(reconstruction, images) - view(images)).square().mean()


def set_error(
    predicted: Float[Tensor, "batch slots properties"], target: Float[Tensor, "batch objects properties"]
) -> Float[Tensor, ""]:
    """Huber cost of predicted and target sets, matched one to one where the sum is least; mean over batch.

    The cost of a pair is the Huber loss (threshold 1) averaged over properties; costs of matched pairs are
    summed. Targets are padded with objects whose properties are all 0, which a slot that stands for nothing
    must predict. Locatello et al. 2020 (arXiv 2006.15055), section 3.2.
    """
    each, other = torch.broadcast_tensors(predicted[:, :, None], target[:, None])
    cost = F.huber_loss(each, other, reduction="none").mean(dim=-1)
    rows, columns = assign(cost)
    batch = torch.arange(len(cost), device=cost.device)[:, None]
    return cost[batch, rows, columns].sum(dim=1).mean()
