"""Random numbers per image, independent of the number of processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def per_image(draw: Callable[[int], Tensor], batch_size: int) -> Tensor:
    """Random numbers for `batch_size` images, drawn from the global generator by `draw(number of images)`.

    With `torch.distributed`, each process draws for the whole batch and keeps the rows of its own images
    (every n-th, as in `data.loader`), so that equal seeds give the numbers of a single process.

    Example:
        >>> per_image(torch.rand, 4).shape
        torch.Size([4])
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return draw(batch_size)
    count = torch.distributed.get_world_size()
    return draw(batch_size * count)[torch.distributed.get_rank() :: count]
