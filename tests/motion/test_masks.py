"""Finishing steps of motion masks: common fate, and colours taken from refined masks."""

import torch

from objecthood import metrics
from objecthood.motion.masks import coloured, finished, moving_together

ROWS, COLUMNS = 60, 96


def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """An object that moves by 2 pixels, water around it that moves otherwise and as fast, a background with
    parallax; and a mask with a window for a hole and some of the water."""
    flow = torch.zeros(2, 2, 2, ROWS, COLUMNS)
    flow[:, :, 0] = torch.linspace(-1, 1, ROWS)[:, None]
    truth, mask = torch.zeros(2, ROWS, COLUMNS), torch.full((2, ROWS, COLUMNS), 0.2)
    flow[:, :, :, 44:] = torch.tensor([0.0, 2.0])[:, None, None]  # water
    flow[:, :, :, 20:44, 30:60] = torch.tensor([2.0, 0.0])[:, None, None]
    truth[:, 20:44, 30:60] = 1.0
    mask[:, 20:48, 30:60], mask[:, 24:30, 36:48] = 0.8, 0.2
    return flow, truth, mask


def test_what_moves_like_the_object_belongs_to_it():
    flow, truth, mask = scene()
    before = metrics.region_similarity(truth.bool(), mask > 0.5)
    after = metrics.region_similarity(truth.bool(), moving_together(mask, flow) > 0.5)
    assert before.max() < 0.82 and after.min() > 0.97


def test_where_all_moves_alike_masks_stay():
    _, _, mask = scene()
    still = moving_together(mask, torch.ones(2, 2, 2, ROWS, COLUMNS))
    torch.testing.assert_close(still, mask, atol=1e-3, rtol=0)
    for empty in (torch.zeros_like(mask), torch.ones_like(mask)):
        assert ((moving_together(empty, scene()[0]) > 0.5) == empty.bool()).all()


def test_common_fate_is_a_finishing_step_of_weight_0_unless_asked():
    flow, truth, mask = scene()
    images = torch.full((2, 3, ROWS, COLUMNS), 0.5)
    both = mask[:, None].expand(-1, 2, -1, -1)
    found = [finished(both, flow, images, 0.0, weight) for weight in (0.0, 4.0)]
    overlap = [metrics.region_similarity(truth.bool(), one > 0.5).mean() for one in found]
    assert overlap[1] > overlap[0] + 0.1


def test_the_second_round_of_colours_starts_from_the_first():
    """The mask includes background, which the first round removes: the histogram of the second lacks it."""
    images = torch.full((1, 3, 32, 32), 0.2)
    images[:, :, 8:24, 8:16] = 0.9
    mask = torch.full((1, 32, 32), 0.1)
    mask[:, 8:24, 8:20] = 0.6
    once, twice = (coloured(mask, images, 1.0, rounds=rounds)[0, 12, 18] for rounds in (1, 2))
    assert once < 0.5 and twice < 0.8 * once
