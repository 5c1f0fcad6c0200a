"""COCO run-length masks, in numpy alone: what `pycocotools.mask` reads and writes, bit for bit.

A mask is read column by column; the runs of false and true pixels alternate, false first. COCO writes each
run as the difference to the run two before it, in base 32, lowest digit first, one printable character per
digit (Lin et al. 2014, "Microsoft COCO"; `common/maskApi.c` of cocodataset/cocoapi is the definition).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from objecthood.runtime import limits

# Text from a stranger decides how much memory `decode` takes. 2**26 pixels (8192 x 8192) are 64 MiB,
# far above any image a segmentation model sees.
MAX_PIXELS = limits.MASK_PIXELS
FIRST_CHARACTER = 48  # "0" stands for the digit 0
DIGIT, SIGN, MORE = 0x1F, 0x10, 0x20  # five bits of value; the highest of them is the sign; "more follow"
MAX_DIGITS = 6  # 30 bits, sign included: enough for every difference of runs within MAX_PIXELS


def encode(mask: Bool[np.ndarray, "height width"]) -> dict[str, list[int] | str]:
    """A mask as `{"size": [height, width], "counts": str}`, ready for JSON.

    >>> encode(np.array([[False, True], [False, True]]))
    {'size': [2, 2], 'counts': '22'}
    """
    height, width = mask.shape
    pixels = np.concatenate(([False], mask.ravel(order="F")))
    starts = np.flatnonzero(pixels[1:] != pixels[:-1])
    runs = np.diff(np.concatenate(([0], starts, [mask.size])))
    return {"size": [height, width], "counts": _write_runs(runs)}


def decode(rle: Mapping[str, Any]) -> Bool[np.ndarray, "height width"]:
    """The mask of `{"size": [height, width], "counts": ...}`.

    `counts` is COCO's compressed text (str or bytes), or a plain list of run lengths.

    Raises: ValueError, in one line, for whatever is not such a mask, or has more than 2**26 pixels.

    >>> decode({"size": [2, 2], "counts": [2, 2]}).tolist()
    [[False, True], [False, True]]
    """
    size, runs = read_runs(rle)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


def read_runs(rle: Mapping[str, Any]) -> tuple[tuple[int, int], np.ndarray]:
    """Height and width of a mask, and the lengths of its runs (int64, column by column, false first).

    Raises: ValueError, as `decode`.

    >>> read_runs({"size": [2, 2], "counts": "22"})[1].tolist()
    [2, 2]
    """
    height, width = _read_size(rle)
    counts = rle.get("counts")
    runs = _read_runs(counts) if isinstance(counts, str | bytes) else _read_plain_runs(counts)
    # Each run is checked before they are added, so that the sum cannot wrap round to the right number.
    wild = len(runs) > 0 and (runs.min() < 0 or runs.max() > height * width)
    if wild or runs.sum() != height * width:
        raise ValueError(f"run-length mask: the runs must add up to {height} x {width} pixels, and do not")
    return (height, width), runs


def bounding_box(mask: Bool[np.ndarray, "height width"]) -> list[int]:
    """The tightest `[x, y, width, height]` in pixels around the true pixels; all 0 where there are none.

    >>> bounding_box(np.array([[False, False, False], [False, True, True]]))
    [1, 1, 2, 1]
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return [0, 0, 0, 0]
    left, top, right, bottom = columns[0], rows[0], columns[-1], rows[-1]
    return [int(side) for side in (left, top, right - left + 1, bottom - top + 1)]


def _write_runs(runs: np.ndarray) -> str:
    """Run lengths -> COCO's text. All digits of all numbers at once; then those not needed are left out."""
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    rest = numbers[:, None] >> (5 * np.arange(MAX_DIGITS + 1))
    digits = rest[:, :-1] & DIGIT
    # What lies above a digit is said already where it only repeats that digit's sign.
    ends = rest[:, 1:] == np.where(digits & SIGN, -1, 0)
    last = ends.argmax(1)[:, None]
    place = np.arange(MAX_DIGITS)
    characters = digits + np.where(place < last, MORE, 0) + FIRST_CHARACTER
    return characters[place <= last].astype(np.uint8).tobytes().decode("ascii")


def _read_runs(text: str | bytes) -> np.ndarray:
    """COCO's text -> run lengths int64, unchecked but for the form of the text."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    characters = np.frombuffer(data, dtype=np.uint8).astype(np.int64) - FIRST_CHARACTER
    if len(characters) and (characters.min() < 0 or characters.max() > DIGIT + MORE):
        raise ValueError("run-length mask: `counts` holds characters that COCO's text does not have")
    ends = np.flatnonzero(characters & MORE == 0)
    if len(characters) and (not len(ends) or ends[-1] != len(characters) - 1):
        raise ValueError("run-length mask: `counts` stops in the middle of a number")
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > MAX_DIGITS:
        raise ValueError("run-length mask: `counts` holds a number of more than 30 bits")
    if not len(lengths):
        return np.zeros(0, dtype=np.int64)
    place = np.arange(len(characters)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((characters & DIGIT) << (5 * place), starts)
    numbers -= np.where(characters[ends] & SIGN, 1 << (5 * lengths), 0)
    # From the fourth on, a number is the difference to the run two before it: add up odd and even apart.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _read_plain_runs(counts: Any) -> np.ndarray:
    known = isinstance(counts, Sequence)
    if not known or not all(type(count) is int and 0 <= count <= MAX_PIXELS for count in counts):
        raise ValueError(
            f"run-length mask: `counts` must be text or a list of whole numbers 0..{MAX_PIXELS}, "
            f"got {counts!r:.60}"
        )
    return np.array(counts, dtype=np.int64)


def _read_size(rle: Mapping[str, Any]) -> tuple[int, int]:
    size = rle.get("size") if isinstance(rle, Mapping) else None
    if not isinstance(size, Sequence) or len(size) != 2 or any(type(s) is not int or s < 0 for s in size):
        raise ValueError(f"run-length mask: `size` must be [height, width], got {size!r:.60}")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"run-length mask: {size[0]} x {size[1]} pixels are more than {MAX_PIXELS}")
    return size[0], size[1]
