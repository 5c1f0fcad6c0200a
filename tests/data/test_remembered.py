"""Values of scenes that are computed once."""

import pytest
import torch

from objecthood.data.generated.sprites import Sprites
from objecthood.data.remembered import Remembered


def test_each_scene_is_computed_once_and_keeps_its_value():
    scenes, computed = Sprites(), []
    scenes.size, scenes.endless = 6, False

    def means(some):
        computed.append(len(some["image"]))
        return some["image"].mean(dim=(2, 3))

    known = Remembered(scenes, means, "mean")
    assert len(known) == 6
    known[[4, 1]]
    batch = known[[1, 2, 4]]
    assert computed == [2, 1]
    torch.testing.assert_close(batch["mean"], batch["image"].mean(dim=(2, 3)))
    known[range(6)]
    assert sum(computed) == 6


def test_endless_scenes_are_refused():
    with pytest.raises(ValueError, match="endless"):
        Remembered(Sprites(), lambda some: some["image"], "copy")
