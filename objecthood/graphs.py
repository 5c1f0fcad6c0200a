"""A whole training step as one CUDA graph: forward, backward, clipping, optimisers and averaged weights.

A step of a small model is some hundred kernels of a few microseconds, and launching them takes longer than
running them. A graph is recorded once and launched in one go. What changes from step to step lies in tensors
that keep their places: the scenes, and two numbers (how far to go, how fast to average).

The schedule multiplies what the optimisers did at their base learning rates: weights = before + factor *
(after - before). For optimisers whose step is proportional to the learning rate (Adam and Muon here, without
weight decay) this is the same step up to rounding, and no optimiser need know of graphs.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from objecthood.data.scene import Scenes
from objecthood.recipes import Recipe

Capture: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Takes a function that works on tensors in fixed places; returns one that does the same work again."""


class GraphedStep:
    """The training step of a recipe, recorded as a CUDA graph where that is possible.

    The first `eager_steps` steps are taken one kernel at a time. They are steps like all others, and warm up
    what must not happen while recording. Whatever the recipe's loss does in Python is recorded as it is at
    the step after them: let a ramp that depends on the step end before. On other devices all steps are taken
    that way, and, with a warning, where recording fails (a loss that looks at a value, say).

    Args:
        recipe: gives loss, clipping, schedule and averaging.
        model: on its device.
        optimizers: `recipe.build_optimizers(model)`; their learning rates stay at their base.
        average: of the model, moved along.
        precision: of autocast; float32: none.
        eager_steps: steps before the recording, at least 1.
        capture: how to record; by default CUDA graphs where the model is on a CUDA device, else not at all.

    Example:
        >>> import objecthood as oh
        >>> recipe = oh.RECIPES["tetrominoes"]
        >>> model = recipe.build_model()
        >>> step = GraphedStep(recipe, model, recipe.build_optimizers(model), AveragedModel(model))
        >>> loss, norm = step(recipe.dataset("train")[range(2)], 0)
        >>> step.is_graph
        False
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        average: AveragedModel,
        precision: torch.dtype = torch.float32,
        eager_steps: int = 3,
        capture: Capture | None = None,
    ):
        if eager_steps < 1:
            raise ValueError(f"`eager_steps` (={eager_steps}) must be at least 1: recording needs a warm-up")
        self.recipe, self.model, self.optimizers, self.average = recipe, model, optimizers, average
        self.precision, self.eager_steps = precision, eager_steps
        weight = next(model.parameters())
        self.device = weight.device
        self._on_gpu = self.device.type == "cuda"
        self._capture = capture or (record if self._on_gpu else None)
        self._replay: Callable[[], None] | None = None
        self._taken = self._step = 0
        self._scenes: dict[str, Tensor] = {}
        self._factor, self._towards = (weight.new_zeros(()).detach() for _ in range(2))
        self._loss = self._norm = self._factor
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if self._on_gpu and "capturable" in group:
                group["capturable"] = True

    @property
    def is_graph(self) -> bool:
        """Whether steps are replayed by now."""
        return self._replay is not None

    def __call__(self, scenes: Scenes, step: int) -> tuple[Tensor, Tensor]:
        """Take step number `step` (0: the first); loss and norm of the gradient, to be read before the next.

        Seed the global generator before each call: noise is drawn from it. Raises ValueError where the scenes
        are not shaped as those of the first call.
        """
        self._fill(scenes, step)
        if self._replay is None and self._capture is not None and self._taken >= self.eager_steps:
            self._try_to_record(self._capture)
        if self._replay is not None:
            self._replay()
        else:
            with beside_the_default_stream(self._on_gpu):
                self._advance()
        self._taken += 1
        return self._loss, self._norm

    def _fill(self, scenes: Scenes, step: int) -> None:
        """Put what this step is about where the graph looks for it."""
        given: dict[str, Any] = dict(scenes)
        shapes = {key: tuple(value.shape) for key, value in given.items()}
        if not self._scenes:
            self._scenes = {key: value.to(self.device, copy=True) for key, value in given.items()}
        kept = {key: tuple(value.shape) for key, value in self._scenes.items()}
        if shapes != kept:
            raise ValueError(
                f"scenes of shapes {shapes} do not fit a graph recorded for {kept}; keep the batch size"
            )
        for key, value in given.items():
            self._scenes[key].copy_(value, non_blocking=True)
        self._step = step
        self._factor.fill_(self.recipe.learning_rate_factor(step + 1))
        # As `train.averaging`, which counts the steps before this one; the first average is the weights.
        self._towards.fill_(1 - min(self.recipe.average, (step + 1) / (step + 10)) if step else 1.0)

    def _try_to_record(self, capture: Capture) -> None:
        try:
            self._replay = capture(self._advance)
        except RuntimeError as error:
            self._capture = None
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"no CUDA graph, steps are taken one kernel at a time: {reason}", stacklevel=3)

    def _advance(self) -> None:
        """The step itself, on tensors that keep their places."""
        parameters: list[Tensor] = list(self.model.parameters())
        for parameter in parameters:
            parameter.grad = None
        is_narrow = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision if is_narrow else None, enabled=is_narrow):
            scenes: Any = self._scenes
            loss = self.recipe.loss(self.model, scenes, self._step)
        loss.backward()
        self._norm = nn.utils.clip_grad_norm_(parameters, self.recipe.gradient_clip or torch.inf)
        self._loss = loss.detach()
        with torch.no_grad():
            before: list[Tensor] = [parameter.clone() for parameter in parameters]
            for optimizer in self.optimizers:
                optimizer.step()
            move(parameters, before, self._factor)
            move(list(self.average.module.parameters()), parameters, 1 - self._towards)
            for kept, new in zip(self.average.module.buffers(), self.model.buffers(), strict=True):
                kept.copy_(new)
            self.average.n_averaged.add_(1)


def move(tensors: list[Tensor], origins: list[Tensor], factor: Tensor) -> None:
    """tensors = origins + factor * (tensors - origins), in place, with a factor [] that is on the device.

    Example:
        >>> weight = torch.tensor([3.0])
        >>> move([weight], [torch.tensor([1.0])], torch.tensor(0.25))
        >>> weight.item()
        1.5
    """
    torch._foreach_sub_(tensors, origins)
    torch._foreach_mul_(tensors, factor)
    torch._foreach_add_(tensors, origins)


def record(advance: Callable[[], None]) -> Callable[[], None]:
    """Record the kernels that `advance` launches, without running them."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        advance()
    return graph.replay


@contextlib.contextmanager
def beside_the_default_stream(on_gpu: bool) -> Iterator[None]:
    """What runs here on a GPU runs on a stream of its own, as warm-ups of a recording must."""
    if not on_gpu:
        yield
        return
    side, main = torch.cuda.Stream(), torch.cuda.current_stream()
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield
    main.wait_stream(side)
