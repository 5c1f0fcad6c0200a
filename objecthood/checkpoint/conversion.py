"""Checkpoints of published slot models to weight files of this package: `oh.convert`, `objecthood convert`.

The only place where a pickle is read: checkpoints are published as such. PyTorch's restricted unpickler
(`weights_only=True`) builds tensors and plain containers, and calls nothing that a file names. Whoever can,
converts a .safetensors file with the same names instead.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from objecthood.checkpoint.layouts import LAYOUTS, Layout, Options
from objecthood.checkpoint.run import save
from objecthood.recipes import Recipe
from objecthood.runtime.files import new_path
from objecthood.runtime.spelling import nearest

NAMED = 3
"""Number of weights of a kind that an error message names."""
CONTAINERS = ("state_dict", "model")
"""Keys under which Lightning and SPOT keep the weights."""


def convert(
    checkpoint: str | Path,
    layout: str,
    out: str | Path,
    *,
    heads: int | None = None,
    num_slots: int | None = None,
) -> Path:
    """Write the weights of a published checkpoint as a weight file for `oh.load`, and return its path.

    Args:
        checkpoint: a PyTorch checkpoint (.ckpt, .pt, .tar), or .safetensors of the same names.
        layout: "spot", "videosaur" or "slotcontrast".
        out: the file to write, .safetensors; an existing one is not replaced.
        heads: of the attention of decoder (SPOT: 6) or of predictor and mixer (others: 4), which weights do
            not tell; the published number unless given.
        num_slots: where initial slots are drawn from a Gaussian; 7 unless given.

    Raises:
        ValueError: an unknown layout, a file that holds no weights or more than weights, or weights that do
            not fit: one line names missing, unexpected and misshapen ones.
    """
    if layout not in LAYOUTS:
        near = nearest(layout, LAYOUTS)
        hint = f"; did you mean {near}?" if near else ""
        raise ValueError(f"`layout` (={layout!r}) must be one of {', '.join(LAYOUTS)}{hint}")
    for name, value in (("heads", heads), ("num_slots", num_slots)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` (={value}) must be at least 1")
    out = new_path(Path(out), ".safetensors")
    weights = read_weights(checkpoint)
    try:
        recipe, tensors = converted(weights, LAYOUTS[layout], Options(heads, num_slots))
        with torch.device("meta"):
            model = recipe.build_model()
        check_shapes(model, tensors)
    except KeyError as error:
        raise ValueError(
            f"{checkpoint} is not of layout {layout!r}: it has no {error.args[0]}{_other(weights, layout)}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{checkpoint} cannot be read as layout {layout!r}: {error}") from error
    except (TypeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{checkpoint} cannot be read as layout {layout!r}: a weight is of another shape ({reason:.120})"
        ) from error
    model.load_state_dict(tensors, assign=True)
    return save(model, recipe, out)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, by name; prefixes of wrappers are removed.

    Raises:
        ValueError: no such file, or one that holds no weights, or more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name a checkpoint")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other versions of pickle, which it then refuses
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise nearly anything
        if type(error).__name__ == "UnpicklingError":
            raise ValueError(
                f"{path}: holds more than tensors and plain values, or is no checkpoint, and nothing else is "
                "unpickled; where it was made, save its state_dict alone as .safetensors"
            ) from error
        raise ValueError(f"{path}: no readable checkpoint ({' '.join(str(error).split()):.120})") from error
    for name in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path}: holds no weights (a state_dict)")
    weights = {
        _plain(name): value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    for name, value in weights.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError(f"{path}: {name!r:.60} is no plain tensor; save the weights as such")
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise ValueError(f"{path}: {name!r:.60} repeats its values, and would take more than the file")
    return weights


def converted(
    weights: Mapping[str, Tensor], layout: Layout, options: Options
) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a published checkpoint, and our weights.

    Raises:
        KeyError: a weight that tells the model's sizes is missing.
        ValueError: other weights are missing, or there are more.
    """
    recipe = layout.recipe(weights, options)
    made = layout.made(recipe, weights)
    wanted = {name for names, _ in made.values() for name in names}
    missing = sorted(wanted - weights.keys())
    more = sorted(name for name in weights.keys() - wanted if not layout.ignored.fullmatch(name))
    if missing or more:
        kinds = (("missing", missing), ("unexpected", more))
        raise ValueError("; ".join(f"{kind}: {_listed(names)}" for kind, names in kinds if names))
    with torch.no_grad():
        return recipe, {
            ours: make(*(weights[name].float() for name in names)).contiguous()
            for ours, (names, make) in made.items()
        }


def check_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """ValueError that names weights whose shape is not that of `model`."""
    wanted = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert wanted.keys() == tensors.keys(), sorted(wanted.keys() ^ tensors.keys())  # a mistake of a layout
    wrong = [
        f"{name} is {list(tensors[name].shape)}, expected {shape}"
        for name, shape in sorted(wanted.items())
        if list(tensors[name].shape) != shape
    ]
    if wrong:
        raise ValueError(_listed(wrong, "; "))


def _plain(name: str) -> str:
    """A name without the prefixes of wrappers: of modules mapped over time, and of SPOT's older runs."""
    name = re.sub(r"^(encoder|processor|decoder)\.module\.", r"\1.", name.removeprefix("module."))
    return re.sub(r"^tf_dec\.", "dec.", name)


def _other(weights: Mapping[str, Tensor], layout: str) -> str:
    """A hint at the layout that fits."""
    for name, one in LAYOUTS.items():
        try:
            if name != layout and one.recipe(weights, Options()):
                return f"; its names are those of {name!r}"
        except (KeyError, ValueError, TypeError, IndexError, RuntimeError):
            continue
    return f"; layouts are {', '.join(LAYOUTS)}"


def _listed(names: list[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return separator.join(names[:NAMED]) + more
