"""Counter-based random numbers: a function of seed, scene and draw, independent of batches.

SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators") hashes the counters.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt64
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: SplitMix64's increment
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.05
"""Share of named images in each held-out split (`split_of`); the rest is for training."""
Indices: TypeAlias = Integer[np.ndarray, " scenes"] | Integer[Tensor, " scenes"]


def split_key(seed: int, split: str) -> int:
    """The key of the random stream of a split; ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"`split` (={split!r}) must be one of {', '.join(SPLITS)}")
    return len(SPLITS) * seed + SPLITS.index(split)


def split_of(name: str) -> str:
    """The split of an image, from its name only: about 90 % "train", 5 % "validation", 5 % "test".

    The first 8 bytes of the name's SHA-256, as a fraction of their range, are below 0.05 for "test" and below
    0.1 for "validation".

    Example:
        >>> [split_of(f"{number:012}.jpg") for number in (10, 11, 22)]
        ['train', 'validation', 'test']
    """
    return SPLITS[split_number(name)]


def split_number(name: str) -> int:
    """The index in `SPLITS` of the split of an image (`split_of`)."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return 2 if fraction < HELD_OUT else 1 if fraction < 2 * HELD_OUT else 0


def indices_of_split(
    splits: Integer[np.ndarray, " images"], split: str
) -> tuple[Int[np.ndarray, " members"], bool]:
    """The images of a split, of the `split_number` of each image in order, and whether splits overlap.

    Where few images leave a split empty, "validation" and "test" reuse the last images (5 %, at least one)
    and "train" takes all.

    Example:
        >>> indices_of_split(np.array([0, 1, 0, 2]), "train")
        (array([0, 2]), False)
        >>> indices_of_split(np.array([0, 0, 0]), "test")
        (array([2]), True)
    """
    members = np.flatnonzero(splits == SPLITS.index(split))
    if len(members):
        return members, len(np.unique(splits)) < len(SPLITS)
    if split == "train":
        return np.arange(len(splits)), True
    return np.arange(len(splits))[-max(1, round(HELD_OUT * len(splits))) :], True


def uniform(
    key: int, indices: Integer[np.ndarray, " scenes"], num_draws: int, stream: int = 0
) -> Float[np.ndarray, "scenes draws"]:
    """float64 in [0, 1): draw d of scene i depends on `key`, `stream`, i and d only.

    Example:
        >>> together, alone = uniform(7, np.array([3, 5]), 2), uniform(7, np.array([5]), 2)
        >>> bool((together[1] == alone[0]).all())
        True
    """
    with np.errstate(over="ignore"):
        start = scramble(np.full(1, key, np.int64).astype(np.uint64) + _GOLDEN)
        start = scramble(start + np.uint64(stream) * _GOLDEN)
        start = scramble(start + np.asarray(indices).astype(np.uint64) * _GOLDEN)
        draws = np.arange(1, num_draws + 1, dtype=np.uint64) * _GOLDEN
        bits = scramble(start[:, None] + draws)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(
    key: int, indices: Integer[np.ndarray, " scenes"], num_draws: int, stream: int = 0
) -> Float[np.ndarray, "scenes draws"]:
    """Standard normal float64 (Box and Muller 1958); arguments as in `uniform`."""
    first, second = np.split(uniform(key, indices, 2 * num_draws, stream), 2, axis=1)
    return np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)


def start_noise(
    indices: Indices, num_slots: int, slot_dim: int, start: int = 0
) -> Float[Tensor, "scenes slots slot_dim"]:
    """Standard normal float32 noise of initial slots in evaluation and prediction, a function of scene index
    and restart number `start`."""
    key, rows, stream = split_key(0, "test"), np.asarray(indices), 99 + 1_000_000 * start
    draws = normal(key, rows, num_slots * slot_dim, stream).reshape(-1, num_slots, slot_dim)
    return torch.from_numpy(draws.astype(np.float32))


def restart_noise(
    indices: Indices, restarts: int, num_slots: int, slot_dim: int
) -> Float[Tensor, "starts scenes slots slot_dim"]:
    """`start_noise` of every restart."""
    return torch.stack([start_noise(indices, num_slots, slot_dim, start) for start in range(restarts)])


def scramble(bits: UInt64[np.ndarray, ...]) -> UInt64[np.ndarray, ...]:
    """SplitMix64's output function, which mixes all bits."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
