"""Interface of recipes, the experiments that `train.py` runs.

A recipe is a frozen dataclass of JSON scalars. Change fields with `dataclasses.replace`; change structure by
overriding methods in a subclass.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from objecthood.data.scene import Dataset, Scenes
from objecthood.nn.muon import Muon, is_matrix
from objecthood.runtime import limits, renamed
from objecthood.runtime.files import check_name
from objecthood.runtime.spelling import nearest

Model: TypeAlias = Any
"""The `torch.nn.Module` that a recipe's `build_model` returns; its type depends on the recipe."""


class _Renamed(type):
    """Metaclass of recipes, which accept fields under their old names (`runtime.renamed`)."""

    def __call__(cls, *arguments: Any, **fields: Any) -> Any:
        return super().__call__(*arguments, **renamed.fields(fields, cls.__dataclass_fields__))  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(metaclass=_Renamed):
    """Fields and methods shared by all tasks."""

    name: str
    description: str = ""
    """One line."""
    expected: str = ""
    """Expected score and its source."""
    steps: int
    batch_size: int = 64
    learning_rate: float = 4e-4
    muon_learning_rate: float = 0.0
    """Learning rate of Muon, for matrices and convolutions; 0: Adam for all weights."""
    warmup_steps: int = 10_000
    decay_half_life: int = 100_000
    """Half-life of the learning rate in steps (the paper's schedule); 0: cosine to zero at the last step."""
    gradient_clip: float = 0.0
    """Maximum norm of the gradient; 0: no clipping."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average (EMA) of the weights, which is evaluated and saved; 0: no
    averaging."""
    precision: str = "auto"
    """"float32", "bfloat16" (autocast), or "auto": bfloat16 if the processor supports it natively."""
    seed: int = 0
    evaluate_every: int = 500
    validation_scenes: int = 128
    test_scenes: int = 320

    main_score = "loss"
    """The score shown while training (a class attribute, not a field)."""
    floors_by_default = False
    """Whether `objecthood evaluate` scores baselines without being asked (a class attribute)."""
    minimums = {
        "steps": 1,
        "batch_size": 1,
        "evaluate_every": 1,
        "validation_scenes": 1,
        "test_scenes": 1,
        "seed": 0,
    }
    """Minimum of each integer field (a class attribute, not a field)."""
    maximums = {
        "resolution": limits.RESOLUTION,
        "num_slots": limits.SLOTS,
        "test_iterations": limits.ITERATIONS,
        "later_iterations": limits.ITERATIONS,
        "restarts": limits.RESTARTS,
        "frames": limits.FRAMES,
        "test_frames": limits.FRAMES,
        "validation_scenes": limits.SCENES,
        "test_scenes": limits.SCENES,
    }
    """Maximum of integer fields, for those that a recipe has (a class attribute, not a field)."""
    choices: ClassVar[Mapping[str, Collection[str]]] = {}
    """Allowed values of enumerated fields (a class attribute, not a field)."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            new = renamed.FIELDS.get(name, "")
            if new not in type(self).__dataclass_fields__:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            warnings.warn(f"`{name}` is now `{new}`", DeprecationWarning, stacklevel=2)
            return getattr(self, new)

    def __post_init__(self) -> None:
        """Raise ValueError if a field has the wrong type or is out of range; recipes may come from untrusted
        files."""
        for declared in dataclasses.fields(self):
            value = getattr(self, declared.name)
            if hasattr(value, "item") and not getattr(value, "shape", None):  # a number of NumPy or PyTorch
                object.__setattr__(self, declared.name, value.item())
            _check_type(declared, getattr(self, declared.name))
        check_name(self.name, "name")
        for field, allowed in self.choices.items():
            if (name := getattr(self, field)) not in allowed:
                near = nearest(str(name), allowed)
                hint = f"; did you mean {near}?" if near else ""
                raise ValueError(f"`{field}` (={name!r}) must be one of {', '.join(allowed)}{hint}")
        for field, minimum in self.minimums.items():
            value = getattr(self, field)
            if value < minimum:
                raise ValueError(f"`{field}` (={value}) must be at least {minimum}")
        for field, maximum in self.maximums.items():
            value = getattr(self, field, 0)
            if value > maximum:
                raise ValueError(f"`{field}` (={value}) must be at most {maximum}")
        for field in (
            "learning_rate",
            "muon_learning_rate",
            "warmup_steps",
            "decay_half_life",
            "gradient_clip",
        ):
            value = getattr(self, field)
            if not 0 <= value < math.inf:
                raise ValueError(f"`{field}` (={value}) must be 0 or more, and finite")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"`ema_decay` (={self.ema_decay}) must be at least 0 and below 1")

    def build_model(self) -> Model:
        """The model, with weights initialised from the global generator."""
        raise NotImplementedError

    def dataset(self, split: str) -> Dataset:
        """Scenes of "train", "validation" or "test"."""
        raise NotImplementedError

    def loss(self, model: Model, scenes: Scenes, step: int) -> Tensor:
        """Training loss of one step."""
        raise NotImplementedError

    def scores(self, model: Model, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Scores [batch] of held-out scenes, nan where undefined; noise depends on `indices` alone."""
        raise NotImplementedError

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        """Scores [batch] of soft masks or label maps; empty for tasks or scenes without true masks."""
        return {}

    def model_input(self, scenes: Scenes) -> Tensor:
        """The model's input as images in [0, 1]."""
        return scenes["image"]

    def frozen_features(self, scenes: Scenes) -> Tensor | None:
        """Frozen features [batch, rows, columns, dim] that the model groups; None where it learns its own."""
        return None

    def frame_motion(self, scenes: Scenes) -> Tensor | None:
        """Motion [batch, time, rows, columns, 2] that the model groups beside frozen features; None where it
        sees none."""
        return None

    def enlarge(self, labels: Tensor, images: Tensor) -> Tensor:
        """Labels [batch, *time, rows, columns] on the grid of frozen features, at the size of `images`; or
        soft masks, where the model's masks are refined."""
        size = images.shape[-2:]
        maps = labels.reshape(-1, 1, *labels.shape[-2:]).float()
        return F.interpolate(maps, size, mode="nearest").long().view(*labels.shape[:-2], *size)

    def statistics(self, scenes: Scenes) -> Tensor | None:
        """Statistics [batch, channels, height, width] of the surroundings of each pixel, from which slots
        start; None where there are none."""
        return None

    def summarize(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Scores of a data set from `scores` of its images: means without nan."""
        return {name: value.nanmean().item() for name, value in values.items()}

    def preview(self, model: Model, scenes: Scenes) -> Image.Image:
        """Image of a few scenes, shown while training."""
        raise NotImplementedError

    def figures(self, model: Model, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        """Named images and animations (lists of frames) of a few scenes, made after training."""
        raise NotImplementedError

    def prepare_for_test(self, model: Model) -> Model:
        """The model in evaluation mode with test settings: `test_iterations`, if the recipe has them."""
        if hasattr(self, "test_iterations"):
            model.grouping.iterations = self.test_iterations
        return model.eval()

    @property
    def protocol(self) -> str:
        """Evaluation protocol, in words."""
        raise NotImplementedError

    def build_optimizers(self, model: Model) -> list[torch.optim.Optimizer]:
        """Adam (epsilon 1e-8), and Muon for matrices if `muon_learning_rate` is above 0."""
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        matrices = [weight for weight in weights if self.muon_learning_rate and is_matrix(weight)]
        others = [weight for weight in weights if not (self.muon_learning_rate and is_matrix(weight))]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(others, lr=self.learning_rate, eps=1e-8, fused=True)
        ]
        if matrices:
            optimizers.append(Muon(matrices, lr=self.muon_learning_rate))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["base_lr"] = group["lr"]
        return optimizers

    def learning_rate_factor(self, step: int) -> float:
        """Factor of the learning rates at `step`, from 1."""
        return self.cycle(step, self.steps)

    def cycle(self, step: int, steps: int) -> float:
        """Factor at `step` of `steps`: linear warm-up, then exponential decay or a cosine to zero.

        The decay starts at step 0, during warm-up, as in the reference (Locatello et al. 2020, appendix E).
        """
        warmup = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_half_life:
            return warmup * 0.5 ** (step / self.decay_half_life)
        progress = max(0, step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON scalars, with the class name as "task"."""
        return {"task": type(self).__name__} | dataclasses.asdict(self)


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "True or False"),
    "str": ((str,), "text"),
}


def _check_type(field: dataclasses.Field[Any], value: object) -> None:
    """Raise ValueError if a value is not of its field's declared type, or no JSON scalar."""
    declared = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", "")
    allowed, in_words = _TYPES.get(declared, ((int, float, bool, str, type(None)), "a number or text"))
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise ValueError(f"`{field.name}` (={value!r:.60}) must be {in_words}")


FAST: dict[str, Any] = dict(
    batch_size=16,
    learning_rate=1e-3,
    muon_learning_rate=0.01,
    warmup_steps=200,
    decay_half_life=0,
    gradient_clip=1.0,
    ema_decay=0.995,
)
"""Fields of the fast recipes: Muon and Adam, a cosine schedule, EMA weights."""
