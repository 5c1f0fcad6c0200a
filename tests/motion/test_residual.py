"""Motion of cells without the camera's."""

import copy

import pytest
import torch
import torch.nn.functional as F

from objecthood.data.generated.moving_sprites import MovingSprites
from objecthood.motion.residual import SLOW, ResidualMotion

pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def clips():
    return MovingSprites(frames=3, background="textured", camera=1.0, resolution=192)[range(4)]


@pytest.fixture(scope="module")
def motion(clips):
    return ResidualMotion((12, 12)).of_clips(clips["image"])


def test_motion_is_that_of_sprites_relative_to_the_background(clips, motion):
    true = (clips["flow"] - clips["camera"][..., None, None]).flatten(0, 1) / 192
    true = F.adaptive_avg_pool2d(true, (12, 12)).movedim(1, -1).unflatten(0, (4, 3))
    speed, found = true.norm(dim=-1), motion.norm(dim=-1)
    moves = speed > SLOW
    assert moves.sum() > 20 and found[moves].mean() > 5 * found[speed == 0].mean()
    assert F.cosine_similarity(motion[moves], true[moves], dim=-1).mean() > 0.7


def test_the_last_frame_moves_as_from_the_one_before(clips, motion):
    frames, one = clips["image"], ResidualMotion((12, 12))
    torch.testing.assert_close(one(frames[:, 1], frames[:, 2]), motion[:, 1])
    torch.testing.assert_close(one(frames[:, 2], previous=frames[:, 1]), motion[:, 2])
    torch.testing.assert_close(motion[:, 2], -one(frames[:, 2], frames[:, 1]))
    assert not one(frames[:, 0]).any(), "a single frame has none"


def test_it_can_be_copied_after_use(clips, motion):
    one = ResidualMotion((12, 12))
    one(clips["image"][:1, 0], clips["image"][:1, 1])
    again = copy.deepcopy(one)
    torch.testing.assert_close(again(clips["image"][:1, 0], clips["image"][:1, 1]), motion[:1, 0])
    assert not list(one.state_dict()), "it adds nothing to weights"
