"""What is computed of a scene once and then kept in memory, for values of a few kilobytes a scene.

`data.feature_cache` keeps larger values on disk, by the content of single images; motion depends on several.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from objecthood.data.scene import Dataset, Scenes


class Remembered(Dataset):
    """The scenes of another data set, with a value that is computed when a scene is first read.

    Args:
        scenes: a data set that is not endless, of which memory would grow without end.
        compute: scenes to their values [batch, ...].
        name: under which the scenes get them.

    Example:
        >>> from objecthood.data.generated.sprites import Sprites
        >>> scenes = Sprites()
        >>> scenes.endless = False
        >>> Remembered(scenes, lambda some: some["image"].mean(dim=(1, 2, 3)), "mean")[[3, 5]]["mean"].shape
        torch.Size([2])
    """

    def __init__(self, scenes: Dataset, compute: Callable[[Scenes], Tensor], name: str):
        if scenes.endless:
            raise ValueError("values of an endless data set cannot be kept; name finite data")
        self.scenes, self.compute, self.name = scenes, compute, name
        self._known: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """The scenes and their values."""
        scenes = self.scenes.batch(indices)
        new = [place for place, index in enumerate(indices) if int(index) not in self._known]
        if new:
            some = {key: values[new] for key, values in scenes.items()}  # type: ignore[index]
            for place, value in zip(new, self.compute(some), strict=True):  # type: ignore[arg-type]
                self._known[int(indices[place])] = value
        values = torch.stack([self._known[int(index)] for index in indices])
        scenes[self.name] = values  # type: ignore[literal-required]
        return scenes
