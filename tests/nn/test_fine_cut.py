"""Small segments of a grid of twice the resolution."""

import pytest
import torch
import torch.nn.functional as F

from objecthood.nn.consensus_cut import ConsensusCut, View
from objecthood.nn.fine_cut import FineCut

CUT = ConsensusCut(views=(View(0, 0.2, 0.3),), partitions=((3, 2), (4, 3)))


def scene(noise=0.02):
    """Fine embedding [16, 24, 4] of two halves and a block of 2 x 3 cells, and the block."""
    truth = torch.zeros(16, 24, dtype=torch.long)
    truth[:, 12:] = 1
    truth[5:7, 3:6] = 2
    generator = torch.Generator().manual_seed(0)
    noisy = F.one_hot(truth, 4).float() + noise * torch.randn(16, 24, 4, generator=generator)
    return F.normalize(noisy, dim=-1), truth == 2


def halves():
    """Agreement of the 8 x 12 coarse cells, which see that something differs, but not where it ends."""
    side = torch.arange(12).repeat(8, 1) // 6
    side[2:4, 1:3] = 2
    side = side.flatten()
    return 0.4 + 0.6 * (side[:, None] == side).float()


def test_a_small_object_that_the_coarse_grid_missed_is_found():
    embedding, block = scene()
    small = FineCut(distance=0.5, areas=(0.005, 0.1), cut=CUT)(embedding, halves())
    assert small.shape[1:] == (16, 24) and small.sum(dim=0).max() == 1
    overlaps = [(mask.bool() & block).sum() / (mask.bool() | block).sum() for mask in small]
    assert max(overlaps) == 1


def test_only_segments_of_the_areas_are_kept():
    embedding, block = scene()
    share = block.float().mean().item()
    assert len(FineCut(areas=(share * 1.2, 0.03), cut=CUT)(embedding, halves())) == 0
    kept = FineCut(areas=(share * 0.9, 1.0), cut=CUT)(embedding, halves()).mean(dim=(1, 2))
    assert len(kept) and kept.min() >= share * 0.9


def test_areas_that_do_not_ascend_are_refused():
    with pytest.raises(ValueError, match=r"`areas` \(=\(0.1, 0.05\)\) must ascend"):
        FineCut(areas=(0.1, 0.05))
