"""Coordinates of a grid and their embedding."""

import pytest
import torch

from objecthood.nn import PositionEmbedding
from objecthood.nn.positions import border_distances, coordinate_grid


@pytest.mark.parametrize("height, width", [(1, 1), (2, 3), (7, 5), (18, 18)])
def test_grid_runs_from_border_to_border(height, width):
    grid = coordinate_grid(height, width)
    for row in range(height):
        for column in range(width):
            wanted = [row / max(1, height - 1), column / max(1, width - 1)]
            torch.testing.assert_close(grid[row, column], torch.tensor(wanted))


def test_border_distances_are_in_the_order_of_the_reference():
    torch.testing.assert_close(border_distances(3, 5)[1, 1], torch.tensor([0.5, 0.25, 0.5, 0.75]))


def test_embedding_is_linear_in_the_distances():
    embedding = PositionEmbedding(6)
    assert (embedding.dense.bias == 0).all()
    embedding.dense.bias.data.normal_()
    out = embedding(4, 3)
    wanted = border_distances(4, 3) @ embedding.dense.weight.T + embedding.dense.bias
    torch.testing.assert_close(out, wanted)
