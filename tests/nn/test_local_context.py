"""Blocks before the slots: the identity at first, then a view of `blocks` times (`kernel` - 1) / 2."""

import torch

from objecthood.nn.local_context import LocalContext


def test_each_block_sees_two_positions_further():
    torch.manual_seed(0)
    context = LocalContext(dim=4, blocks=2)
    features = torch.randn(1, 15, 15, 4)
    assert torch.equal(context(features), features)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    changed = features.clone()
    changed[0, 7, 7] += 10.0
    reached = (context(changed) - context(features)).abs().amax(dim=-1)[0] > 0
    rows, columns = reached.nonzero().T
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (3, 11, 3, 11)
