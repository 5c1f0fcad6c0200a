"""Assignment against every permutation there is."""

from itertools import permutations

import pytest
import torch

from objecthood.nn import assign


def cheapest(cost: torch.Tensor) -> float:
    rows, columns = cost.shape
    if rows > columns:
        return cheapest(cost.T)
    choices = permutations(range(columns), rows)
    return min(sum(float(cost[row, column]) for row, column in enumerate(choice)) for choice in choices)


@pytest.mark.parametrize(
    "rows, columns", [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (3, 5), (6, 2), (1, 6)]
)
def test_assignment_is_the_cheapest(rows, columns):
    cost = torch.randn(8, rows, columns, dtype=torch.float64)
    cost[-1] = cost[-1].round()  # ties
    chosen_rows, chosen_columns = assign(cost)
    assert chosen_rows.shape == chosen_columns.shape == (8, min(rows, columns))
    for matrix, row, column in zip(cost, chosen_rows, chosen_columns, strict=True):
        assert len(set(row.tolist())) == len(set(column.tolist())) == min(rows, columns)
        assert row.tolist() == sorted(row.tolist())
        assert abs(float(matrix[row, column].sum()) - cheapest(matrix)) < 1e-9


@pytest.mark.parametrize("shape", [(0, 3, 3), (2, 0, 3), (2, 3, 0)])
def test_nothing_to_assign(shape):
    rows, columns = assign(torch.zeros(shape))
    assert rows.shape == columns.shape == (shape[0], min(shape[1:]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_costs_that_are_not_finite_are_refused(bad):
    cost = torch.zeros(2, 3, 3)
    cost[1, 2, 0] = bad
    with pytest.raises(ValueError, match="not finite"):
        assign(cost)


def test_costs_may_carry_gradient_and_low_precision():
    rows, columns = assign(torch.tensor([[[2.0, 1.0], [0.0, 3.0]]], dtype=torch.bfloat16).requires_grad_())
    assert rows.tolist() == [[0, 1]] and columns.tolist() == [[1, 0]]
