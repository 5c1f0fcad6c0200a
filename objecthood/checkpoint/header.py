"""Read the metadata of a weight file without loading tensors or importing torch.

A safetensors file begins with the length of a JSON header (8 bytes, little endian) that lists the tensors and
holds text in `__metadata__`; the tensors follow (github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from objecthood.runtime.files import is_number, parse_json
from objecthood.runtime.limits import HEADER_BYTES
from objecthood.runtime.renamed import METADATA

FORMAT = "objecthood-weights-1"
_IN_JSON = ("recipe", "scores", "calibration", "frozen")


def read_description(path: str | Path) -> dict[str, Any]:
    """The metadata of a weight file: recipe, version, commit, scores and "calibration"
    (`out_of_distribution`).

    "parameters" is the number of weights in the file. "frozen" maps paths of frozen modules, whose weights
    are not in the file, to their identities (`nn.frozen.Identity`). Raises ValueError if the file is missing,
    truncated, or of another format.

    Example:
        >>> from objecthood.hub import PRETRAINED
        >>> read_description(PRETRAINED["sprites"].file)["recipe"]["num_slots"]
        6
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no weight file at {path}; a finished run has one as RUN/weights.safetensors")
    try:
        tensors = _read_header(path)
        metadata = tensors.pop("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise ValueError(f"its format is {metadata.get('format')!r}, not {FORMAT!r}")
        for old, new in METADATA.items():
            if old in metadata:
                metadata.setdefault(new, metadata.pop(old))
        metadata.setdefault("calibration", "{}")  # missing in files of version 0.1.0
        metadata.setdefault("frozen", "{}")  # only for models with frozen modules
        facts = metadata | {key: parse_json(metadata[key]) for key in _IN_JSON}
        _check_facts(facts)
        parameters = sum(_product(tensor["shape"]) for tensor in tensors.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a weight file of objecthood ({error}); use another file") from error
    return facts | {"parameters": parameters}


def _check_facts(facts: dict[str, Any]) -> None:
    """Raise ValueError for metadata that `checkpoint.save` does not write."""
    for key in _IN_JSON:
        if not isinstance(facts[key], dict):
            raise ValueError(f"its {key} is not a JSON object")
    wrong = [name for name, score in facts["scores"].items() if not isinstance(score, int | float | None)]
    if wrong:
        raise ValueError(f"its score {wrong[0]!r:.60} is not a number")
    calibration = facts["calibration"]
    quantiles = calibration.get("quantiles", {})
    fits = isinstance(quantiles, dict) and (not calibration or type(calibration.get("scenes")) is int)
    if not fits or not all(
        isinstance(shares, dict) and {"0.5", "0.95"} <= shares.keys() and all(map(is_number, shares.values()))
        for shares in quantiles.values()
    ):
        raise ValueError("its calibration is not a table of quantiles")


def _read_header(path: Path) -> dict[str, Any]:
    """The JSON header; ValueError if the file is truncated."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        (length,) = struct.unpack("<Q", start) if len(start) == 8 else (0,)
        if not 2 <= length <= min(HEADER_BYTES, size - 8):
            raise ValueError("no safetensors header")
        header = parse_json(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != size:
        raise ValueError(f"{size} bytes instead of the {8 + length + max(ends, default=0)} in its header")
    return header


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        if type(side) is not int or not 0 <= side < 2**63:
            raise ValueError(f"a tensor has shape {shape!r:.60}")
        product *= side
    return product
