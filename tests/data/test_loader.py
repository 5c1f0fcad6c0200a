"""The order of scenes: a function of seed and step alone."""

import threading
from itertools import chain, islice

import numpy as np
import pytest
import torch

from objecthood.data.loader import batches, scene_indices
from objecthood.data.scene import Dataset


class Numbers(Dataset):
    """Scene i is an image of the number i."""

    def __init__(self, length: int | None = None):
        self.length, self.endless = length or 5, length is None

    def __len__(self) -> int:
        return self.length

    def batch(self, indices):
        return {"image": torch.tensor(np.asarray(indices)).view(-1, 1, 1, 1).expand(-1, 3, 1, 1).double()}


def taken(dataset, size: int, steps: int, **settings) -> list[list[int]]:
    """The scenes of each of the first steps."""
    scenes = islice(batches(dataset, size, **({"seed": 0} | settings)), steps)
    return [batch["image"][:, 0, 0, 0].long().tolist() for batch in scenes]


@pytest.mark.parametrize("length", [None, 10, 7, 3])
def test_order_is_a_function_of_the_step(length, scoreboard):
    whole = taken(Numbers(length), 4, 12, seed=5)
    for first in (1, 2, 7):
        assert taken(Numbers(length), 4, 12 - first, seed=5, first_step=first) == whole[first:]
    assert taken(Numbers(length), 4, 12, seed=5) == whole
    scoreboard("The same again", "data order begun at any step: the same scenes from there on", 4)


def test_endless_scenes_come_in_order_and_once():
    assert taken(Numbers(), 4, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert scene_indices(Numbers(), 4, seed=9, step=10**8).tolist() == [4 * 10**8 + i for i in range(4)]


@pytest.mark.parametrize("length, size", [(10, 4), (10, 5), (7, 3), (3, 8), (1, 2)])
def test_every_epoch_is_a_permutation_and_a_new_one(length, size, scoreboard):
    order = list(chain(*taken(Numbers(length), size, -(-length * 4 // size))))
    epochs = [order[start : start + length] for start in range(0, length * 4, length)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 5:
        assert len(set(map(tuple, epochs))) == 4
    scoreboard("The same again", "epochs: every scene once, in a new order", 4)


def test_seeds_have_orders_of_their_own():
    assert taken(Numbers(50), 50, 1, seed=0) != taken(Numbers(50), 50, 1, seed=1)


@pytest.mark.parametrize("length", [None, 11])
def test_processes_share_the_batch_exactly(length):
    whole = taken(Numbers(length), 6, 5)
    shares = [taken(Numbers(length), 6, 5, rank=rank, num_processes=3) for rank in range(3)]
    for step, batch in enumerate(whole):
        assert sorted(chain(*(share[step] for share in shares))) == sorted(batch)
        assert all(len(share[step]) == 2 for share in shares)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
def test_every_scene_comes_once_an_epoch_whatever_the_processes(num_processes, scoreboard):
    steps = {"size": 8, "steps": 3}
    shares = [
        taken(Numbers(24), **steps, rank=rank, num_processes=num_processes) for rank in range(num_processes)
    ]
    assert sorted(chain(*chain(*shares))) == list(range(24))
    scoreboard(
        "The same again", "data shared by 1, 2, 3 or 4 processes, changed midway: none repeated, none lost", 1
    )


def test_another_number_of_processes_goes_on_in_the_same_order(scoreboard):
    whole = taken(Numbers(11), 6, 6, seed=3)
    first = [taken(Numbers(11), 6, 3, seed=3, rank=rank, num_processes=2) for rank in range(2)]
    later = [taken(Numbers(11), 6, 3, seed=3, first_step=3, rank=rank, num_processes=3) for rank in range(3)]
    for shares, batches_of_one in ((first, whole[:3]), (later, whole[3:])):
        for step, batch in enumerate(batches_of_one):
            assert list(chain(*zip(*(share[step] for share in shares), strict=True))) == batch
    scoreboard(
        "The same again", "data shared by 1, 2, 3 or 4 processes, changed midway: none repeated, none lost", 1
    )


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="`batch_size` .=5. must be a multiple of the 2 processes"):
        next(batches(Numbers(), 5, seed=0, num_processes=2))


class Faulty(Numbers):
    def batch(self, indices):
        if 8 in indices:
            raise OSError("scene 8 cannot be read")
        return super().batch(indices)


def test_errors_of_the_maker_come_through_at_their_step():
    scenes = batches(Faulty(), 4, seed=0)
    assert len(next(scenes)["image"]) == len(next(scenes)["image"]) == 4
    with pytest.raises(OSError, match="scene 8 cannot be read"):
        next(scenes)


def test_the_maker_ends_with_the_loop():
    before = threading.active_count()
    scenes = batches(Numbers(), 4, seed=0)
    next(scenes)
    assert threading.active_count() == before + 1, "scenes are made ahead, in a thread"
    scenes.close()
    assert threading.active_count() == before
