"""Batches that depend on seed and step only, so that a run can be resumed at any step.

Generated data is read in index order, finite data in a new permutation every epoch. Several processes share
each global batch. A thread prepares the next batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from objecthood.data.scene import Dataset, Scenes


def batches(
    dataset: Dataset,
    batch_size: int,
    *,
    seed: int,
    first_step: int = 0,
    rank: int = 0,
    num_processes: int = 1,
) -> Iterator[Scenes]:
    """Endless batches from `first_step` on; `batch_size` is the total over all processes.

    Raises ValueError if `batch_size` is not a multiple of `num_processes`.
    """
    if batch_size % num_processes:
        raise ValueError(f"`batch_size` (={batch_size}) must be a multiple of the {num_processes} processes")
    share = slice(rank, None, num_processes)

    def make(step: int) -> Scenes:
        return dataset.batch(scene_indices(dataset, batch_size, seed=seed, step=step)[share])

    with ThreadPoolExecutor(max_workers=1) as executor:
        coming = executor.submit(make, first_step)
        step = first_step
        while True:
            ready, step = coming, step + 1
            scenes = ready.result()
            coming = executor.submit(make, step)
            yield scenes


def scene_indices(dataset: Dataset, batch_size: int, *, seed: int, step: int) -> Int[np.ndarray, " batch"]:
    """Indices of the scenes of one step."""
    positions = step * batch_size + np.arange(batch_size, dtype=np.int64)
    if dataset.endless:
        return positions
    num_scenes = len(dataset)
    epochs, offsets = positions // num_scenes, positions % num_scenes
    orders = {int(epoch): permutation(num_scenes, seed, int(epoch)) for epoch in np.unique(epochs)}
    return np.array([orders[int(epoch)][offset] for epoch, offset in zip(epochs, offsets, strict=True)])


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def permutation(num_scenes: int, seed: int, epoch: int) -> Int[np.ndarray, " scenes"]:
    """The order of an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(num_scenes)
