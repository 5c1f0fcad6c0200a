"""Random numbers of images that do not depend on how many processes share a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def per_image(draw: Callable[[int], Tensor], batch_size: int) -> Tensor:
    """What `draw` gives for `batch_size` images, from the global generator.

    Processes that share a batch (`torch.distributed`) each draw for all of it, and keep what belongs to their
    own images, every n-th, as `data.loader` deals them out. With one seed for all, an image's numbers are
    those that one process alone would draw.

    Example:
        >>> per_image(torch.rand, 4).shape
        torch.Size([4])
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return draw(batch_size)
    count = torch.distributed.get_world_size()
    return draw(batch_size * count)[torch.distributed.get_rank() :: count]
