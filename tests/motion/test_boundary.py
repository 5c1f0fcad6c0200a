"""F of boundaries against its definition."""

import numpy as np
import pytest
import torch

from objecthood.metrics import boundary_similarity


def naive(true: np.ndarray, predicted: np.ndarray, radius: int) -> float:
    """Every boundary pixel of one mask, and the distance to every one of the other."""

    def boundary(mask: np.ndarray) -> list[tuple[int, int]]:
        height, width = mask.shape
        found = []
        for row in range(height):
            for column in range(width):
                below, right = min(row + 1, height - 1), min(column + 1, width - 1)
                near = mask[below, column], mask[row, right], mask[below, right]
                if any(other != mask[row, column] for other in near):
                    found.append((row, column))
        return found

    def matched(some: list, others: list) -> float:
        near = [any((a - c) ** 2 + (b - d) ** 2 <= radius**2 for c, d in others) for a, b in some]
        return sum(near) / len(near) if near else 1.0

    mine, theirs = boundary(predicted), boundary(true)
    precision, recall = matched(mine, theirs), matched(theirs, mine)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("tolerance", [0.01, 0.05])
def test_f_is_its_definition(tolerance):
    generator = np.random.default_rng(0)
    true, predicted = generator.random((2, 4, 18, 24)) > 0.9
    true[2:], predicted[3] = False, False
    true[0, 4:9, 5:14] = predicted[0, 5:11, 5:14] = True
    radius = int(np.ceil(tolerance * 30))
    found = boundary_similarity(torch.from_numpy(true), torch.from_numpy(predicted), tolerance)
    expected = [naive(one, other, radius) for one, other in zip(true, predicted, strict=True)]
    np.testing.assert_allclose(found, expected)
    assert found[2] == 0 and found[3] == 1


def test_soft_masks_are_refused():
    with pytest.raises(ValueError, match="threshold"):
        boundary_similarity(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
