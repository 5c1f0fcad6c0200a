"""What an experiment is: numbers as fields, structure as methods, everything the loop needs and nothing of
the loop.

A recipe is a frozen dataclass of JSON scalars. To change a number, `dataclasses.replace`; to change
structure, subclass and override a method. `train.py` calls only what is declared here.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from objecthood.data.scene import Dataset, Scenes
from objecthood.nn.muon import Muon, is_matrix
from objecthood.runtime import limits, renamed
from objecthood.runtime.files import check_name
from objecthood.runtime.spelling import nearest

Model: TypeAlias = Any
"""What a recipe's own `build_model` returns, a `torch.nn.Module`; recipes know theirs, the loop need not."""


class _Renamed(type):
    """The type of recipe classes, which take fields under their old names as well (`runtime.renamed`)."""

    def __call__(cls, *arguments: Any, **fields: Any) -> Any:
        return super().__call__(*arguments, **renamed.fields(fields, cls.__dataclass_fields__))  # type: ignore[attr-defined]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(metaclass=_Renamed):
    """Fields and methods that every task shares."""

    name: str
    description: str = ""
    """What it is, in a line."""
    expected: str = ""
    """Score to expect and where it was measured or published."""
    steps: int
    batch_size: int = 64
    learning_rate: float = 4e-4
    muon_learning_rate: float = 0.0
    """Muon's, for matrices and convolutions; 0: Adam for all weights."""
    warmup_steps: int = 10_000
    decay_half_life: int = 100_000
    """Steps in which the learning rate halves (the paper's schedule); 0: cosine to zero at the last step."""
    gradient_clip: float = 0.0
    """Largest norm of the gradient; 0: no clipping."""
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights that is scored and saved; 0: the weights
    themselves."""
    precision: str = "auto"
    """"float32", "bfloat16" (autocast), or "auto": bfloat16 where the processor computes in it."""
    seed: int = 0
    evaluate_every: int = 500
    validation_scenes: int = 128
    test_scenes: int = 320

    main_score = "loss"
    """The score that is shown while training (a class attribute, not a field)."""
    minimums = {
        "steps": 1,
        "batch_size": 1,
        "evaluate_every": 1,
        "validation_scenes": 1,
        "test_scenes": 1,
        "seed": 0,
    }
    """The least value of each counted field (a class attribute, not a field)."""
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
    """The largest value of counted fields, for those that a recipe has (a class attribute, not a field)."""
    choices: ClassVar[Mapping[str, Collection[str]]] = {}
    """The allowed values of fields that name one of several (a class attribute, not a field)."""

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            new = renamed.FIELDS.get(name, "")
            if new not in type(self).__dataclass_fields__:
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
            warnings.warn(f"`{name}` is now `{new}`", DeprecationWarning, stacklevel=2)
            return getattr(self, new)

    def __post_init__(self) -> None:
        """ValueError, in one line, where a field has another type than it is declared with, or is out of
        range: recipes come from weight files and run folders of others, too."""
        for declared in dataclasses.fields(self):
            _check_type(declared, getattr(self, declared.name))
        check_name(self.name, "name")
        for field, allowed in self.choices.items():
            if (name := getattr(self, field)) not in allowed:
                near = nearest(str(name), allowed)
                hint = f"; did you mean {near}?" if near else ""
                raise ValueError(f"`{field}` (={name!r}) must be one of {', '.join(allowed)}{hint}")
        for field, least in self.minimums.items():
            value = getattr(self, field)
            if value < least:
                raise ValueError(f"`{field}` (={value}) must be at least {least}")
        for field, most in self.maximums.items():
            value = getattr(self, field, 0)
            if value > most:
                raise ValueError(f"`{field}` (={value}) must be at most {most}")
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
        """The model, with fresh weights from the global generator."""
        raise NotImplementedError

    def dataset(self, split: str) -> Dataset:
        """Scenes of "train", "validation" or "test"."""
        raise NotImplementedError

    def loss(self, model: Model, scenes: Scenes, step: int) -> Tensor:
        """What one step minimises."""
        raise NotImplementedError

    def scores(self, model: Model, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Scores [batch] of held-out scenes, nan where one is not defined; noise depends on `indices`
        alone."""
        raise NotImplementedError

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        """Scores of masks or label maps, whatever made them; none where the task or the scenes have none."""
        return {}

    def model_input(self, scenes: Scenes) -> Tensor:
        """What the model groups, as images in [0, 1]."""
        return scenes["image"]

    def summarize(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Scores of a whole set from what `scores` gave for its images: means, nan left out."""
        return {name: value.nanmean().item() for name, value in values.items()}

    def preview(self, model: Model, scenes: Scenes) -> Image.Image:
        """What is shown of a few scenes while training."""
        raise NotImplementedError

    def figures(self, model: Model, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        """Named images and animations (lists of frames) of a few scenes, for the end."""
        raise NotImplementedError

    def prepare_for_test(self, model: Model) -> Model:
        """The model as it is to be used after training."""
        return model.eval()

    @property
    def protocol(self) -> str:
        """How the scores are taken, in words."""
        raise NotImplementedError

    def build_optimizers(self, model: Model) -> list[torch.optim.Optimizer]:
        """Adam (epsilon 1e-8), with Muon for matrices where it has a learning rate."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = (
            [parameter for parameter in parameters if is_matrix(parameter)] if self.muon_learning_rate else []
        )
        chosen = {id(parameter) for parameter in matrices}
        others = [parameter for parameter in parameters if id(parameter) not in chosen]
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
        """What learning rates are multiplied with at `step`: linear warm-up, then halving or a cosine to
        zero.

        Halving acts from step 0 on, warm-up included, as in the reference (Locatello et al. 2020, appendix
        E).
        """
        warmup = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        if self.decay_half_life:
            return warmup * 0.5 ** (step / self.decay_half_life)
        progress = max(0, step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON scalars, with the class name that `recipes.TASKS` knows."""
        return {"task": type(self).__name__} | dataclasses.asdict(self)


_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "True or False"),
    "str": ((str,), "text"),
}


def _check_type(field: dataclasses.Field[Any], value: object) -> None:
    """ValueError where a value is not of its field's declared type, or is no JSON scalar."""
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
"""What the fast recipes share: Muon beside Adam, a cosine, averaged weights."""
