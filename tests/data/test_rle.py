"""COCO run-length masks: the same text and the same pixels as pycocotools, and no harm from bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from objecthood.data.io.rle import _write_runs, bounding_box, decode, encode

# pycocotools 2.0 has not followed NumPy 2's `__array__` signature; its pixels are right all the same.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def random_mask(seed: int) -> np.ndarray:
    """Blobs and noise of many sizes: long runs (several digits) and short ones."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 300, size=2)
    mask = random.random((height, width)) < random.choice([0.0, 0.001, 0.1, 0.5, 0.95, 1.0])
    top, left = random.integers(0, height), random.integers(0, width)
    mask[top : top + height // 2, left : left + width // 2] ^= True
    return mask


@pytest.mark.parametrize("seed", range(60))
def test_same_text_as_pycocotools(seed, scoreboard):
    mask = random_mask(seed)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode(mask)
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"].decode()}
    assert (coco.decode(ours) == mask).all()
    assert (decode(theirs) == mask).all()
    scoreboard("Data files", "run-length masks: the text and pixels of pycocotools", 1)


@pytest.mark.parametrize("seed", range(20))
def test_same_box_as_pycocotools(seed):
    mask = random_mask(seed)
    assert bounding_box(mask) == coco.toBbox(encode(mask)).tolist()


def test_box_by_hand():
    mask = np.zeros((7, 9), dtype=bool)
    assert bounding_box(mask) == [0, 0, 0, 0]
    mask[2, 4] = mask[5, 8] = True
    assert bounding_box(mask) == [4, 2, 5, 4]


def test_columns_come_first():
    mask = np.array([[False, True, False], [False, True, True]])
    assert decode({"size": [2, 3], "counts": [2, 2, 1, 1]}).tolist() == mask.tolist()


@given(st.integers(0, 40), st.integers(0, 40), st.binary(min_size=1, max_size=64))
def test_round_trip(height, width, pattern):
    bits = np.resize(np.unpackbits(np.frombuffer(pattern, dtype=np.uint8)), (height, width)).astype(bool)
    rle = encode(bits)
    back = decode(rle)
    assert back.dtype == bool and back.shape == bits.shape and (back == bits).all()
    assert (decode({**rle, "counts": rle["counts"].encode()}) == bits).all()


@given(st.integers(0, 12), st.integers(0, 12), st.binary(max_size=24) | st.text(max_size=24))
def test_random_text_gives_a_mask_or_a_value_error(height, width, counts):
    try:
        assert decode({"size": [height, width], "counts": counts}).shape == (height, width)
    except ValueError as error:
        assert "\n" not in str(error)


@given(st.lists(st.integers(-(2**70), 2**70) | st.none() | st.floats() | st.booleans(), max_size=6))
def test_random_lists_give_a_mask_or_a_value_error(counts):
    try:
        assert decode({"size": [3, 3], "counts": counts}).shape == (3, 3)
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "rle",
    [
        {},
        {"size": [2, 2]},
        {"counts": "22"},
        {"size": [2, 2], "counts": "2"},  # too few pixels
        {"size": [2, 2], "counts": "29"},  # too many
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "2\n2"},
        {"size": [2, 2], "counts": "2ß"},
        {"size": [2, 2], "counts": "2r"},  # the last number does not end
        {"size": [2, 2], "counts": "5O"},  # 5 and -1: the right sum
        {"size": [2, 2], "counts": "o" * 40 + "0"},  # a number of 200 bits
        {"size": [2, 2], "counts": "R" + "P" * 12 + "02"},  # 2 and 2, the first with 13 leading zeros
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": [2**62, 2**62, 2**62, 2**62 + 4]},  # wraps round to 4 in 64 bits
        {"size": [2, 2], "counts": [2.0, 2.0]},
        {"size": [2, 2], "counts": 4},
        {"size": [2, 2], "counts": {"2": 2}},
        {"size": [-2, -2], "counts": "22"},
        {"size": [2], "counts": "22"},
        {"size": [True, 4], "counts": "22"},
        {"size": "2\n", "counts": "22"},
        {"size": [10**6, 10**6], "counts": [10**12]},  # a terabyte of pixels
        {"size": [10**6, 10**6], "counts": [10**7] * 10**5},  # the same in small runs
        {"size": [10**30, 1], "counts": [10**30]},
    ],
)
def test_malformed_masks_are_refused_in_one_line(rle, scoreboard):
    with pytest.raises(ValueError) as caught:
        decode(rle)
    assert str(caught.value).startswith("run-length mask: ") and "\n" not in str(caught.value)
    scoreboard("Data files", "malformed run-length masks: refused in one line", 1)


def test_a_sum_that_wraps_round_is_no_way_in():
    """Legal differences, added up, reach 2**64 + 4, which in 64 bits is 4: then no terabytes of pixels."""
    length, largest, rest = 2**19, 2**29 - 1, 2**64 + 4
    differences = []
    for weight in range(length, 0, -1):  # the first difference is part of every run after it
        differences.append(min(largest, rest // weight))
        rest -= weight * differences[-1]
    runs = np.zeros(2 * length, dtype=np.int64)
    runs[1::2] = np.cumsum(differences)
    assert rest == 0 and runs.sum() == 4
    with pytest.raises(ValueError, match="must add up to 2 x 2"):
        decode({"size": [2, 2], "counts": _write_runs(runs)})
