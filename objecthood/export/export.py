"""A model to ONNX: traced, compared with PyTorch, and only then kept.

`export_onnx` writes one graph with start noise and the number of iterations as inputs and the attention of
every iteration as an output; `export_parts` the parts of `export.stages`, one graph each, which the
page of the demo puts together itself. What a prior adds between iterations is in both.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import objecthood
from objecthood.data.randomness import start_noise
from objecthood.export.examples import example_images
from objecthood.export.graph import repeat, trace
from objecthood.export.stages import Begin, Finish, Start, Step, stages_of, stages_of_discovery
from objecthood.models import SlotModel
from objecthood.runtime.environment import commit

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
"""Largest difference from PyTorch, of any number of any output, over that output's largest value or 1,
whichever is more: images, masks and attention reach to about 1, slots to about 10."""
BATCHES = (1, 4)
_CANDIDATES, _MORE, _TOUCHES = 32, 96, 3
_STEADY = 3e-5
"""Change by a touch of noise (of 1e-6) up to which an image is steady."""
PARTS = ("start", "encode", "step", "paint")


Report = Callable[[str], None]


def export_onnx(model: SlotModel, path: str | Path, *, report: Report | None = None) -> Path:
    """Write `model` as one ONNX graph to a new file.

    Inputs: `image` [batch, 3, height, width] in [0, 1]; `noise` [batch, slots, slot_dim], standard normal
    (where slots are learned queries only those beyond them use it), which decides the number of slots, and is
    one start, also of a model that takes the best of several;
    `iterations`, a whole number. Outputs: those of the model (reconstruction, appearance and masks, or
    properties), `slots`, and `attention` [batch, iterations, slots, rows, columns].

    Raises:
        ValueError: there is such a file, the model is of another kind, or the graph does not give what
            PyTorch gives, to 1e-4, for batches of 1 and 4; then nothing is left behind.

    Example:
        >>> import tempfile
        >>> from objecthood.models import autoencoder
        >>> model = autoencoder.fast_tetrominoes().eval()
        >>> file = export_onnx(model, f"{tempfile.mkdtemp()}/pieces.onnx")  # doctest: +SKIP
    """
    _check_kind(model)
    path = _new(Path(path), ".onnx")
    staged = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        tell(report, "tracing the model")
        graph = whole_graph(model)
        describe(graph, model)
        staged.write_bytes(graph.SerializeToString())
        for batch, num_slots in _comparisons(model):
            tell(report, f"comparing with PyTorch: batch {batch}, {num_slots} slots")
            compare_whole(model, staged, batch, num_slots)
        os.replace(staged, path)
    finally:
        staged.unlink(missing_ok=True)
    return path


def tell(report: Report | None, what: str) -> None:
    """Say what is done now, where somebody listens."""
    if report:
        report(what)


def _comparisons(model: SlotModel) -> list[tuple[int, int]]:
    """Batches and numbers of slots."""
    return [*((batch, model.num_slots) for batch in BATCHES), (2, model.num_slots + 2)]


def export_parts(model: SlotModel, folder: str | Path, *, report: Report | None = None) -> Path:
    """Write the parts of a discovery model as ONNX graphs into a new folder, with `model.json` beside them.

    The graphs are `start` (noise, spread -> slots), `encode` (image -> inputs), `step` (slots, inputs, bias
    -> slots_after, attention, bias_after, slots_seen; the first bias is 0, and slots_seen are those to paint)
    and `paint` (slots, attention -> appearance, mask_logits); shapes are those of `export.stages`. Batch
    and number of slots are open.

    Raises:
        ValueError: as `export_onnx`.
    """
    _check_kind(model)
    stages_of_discovery(model)
    folder = _new(Path(folder), "")
    staged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    staged.mkdir(parents=True)
    try:
        tell(report, "tracing the parts of the model")
        for name, graph in part_graphs(model).items():
            describe(graph, model)
            (staged / f"{name}.onnx").write_bytes(graph.SerializeToString())
        (staged / "model.json").write_text(json.dumps(facts(model), indent=1) + "\n")
        for batch, num_slots in _comparisons(model):
            tell(report, f"comparing with PyTorch: batch {batch}, {num_slots} slots")
            compare_parts(model, staged, batch, num_slots)
        os.rename(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder


def facts(model: SlotModel) -> dict[str, Any]:
    """What a user of a graph must know of the model, as JSON values."""
    recipe = getattr(model, "recipe", None)
    return {
        "version": objecthood.__version__,
        "commit": commit(),
        "recipe": recipe.to_dict() if recipe else None,
        "resolution": model.resolution,
        "fit": model.fit,
        "grid": list(model.feature_grid),
        "num_slots": model.num_slots,
        "slot_dim": model.slot_dim,
        "iterations": model.iterations,
        "is_start_learned": Start(model).is_learned,
    }


def describe(graph: ModelProto, model: SlotModel) -> None:
    """Put `facts` into the metadata of a graph, under "objecthood"."""
    from onnx import helper

    graph.producer_name, graph.producer_version = "objecthood", objecthood.__version__
    helper.set_model_props(graph, {"objecthood": json.dumps(facts(model))})


def whole_graph(model: SlotModel) -> ModelProto:
    """The graph of `export_onnx`, not yet compared."""
    finish = Finish(model)
    example = _example(model)
    begin = trace(
        Begin(model).eval(),
        {name: example[name] for name in ("image", "noise")},
        {"image": "b", "noise": "bs"},
        ("slots", "inputs", "bias"),
    )
    end = trace(
        finish.eval(),
        {"slots": example["slots"], "attention": example["shares"]},
        {"slots": "bs", "attention": "bs"},
        finish.names,
    )
    return repeat(begin, _step_graph(model, example), end, model.feature_grid)


def part_graphs(model: SlotModel) -> dict[str, ModelProto]:
    """The graphs of `export_parts` by name, not yet compared."""
    example, parts = _example(model), stages_of_discovery(model)
    return {
        "start": trace(
            parts.start.eval(),
            {name: example[name] for name in ("noise", "noise_scale")},
            {"noise": "bs"},
            ("slots",),
        ),
        "encode": trace(parts.encode.eval(), {"image": example["image"]}, {"image": "b"}, ("inputs",)),
        "step": _step_graph(model, example),
        "paint": trace(
            parts.paint.eval(),
            {"slots": example["slots"], "attention": example["shares"]},
            {"slots": "bs", "attention": "bs"},
            ("appearance", "mask_logits"),
        ),
    }


def compare_whole(model: SlotModel, file: Path, batch: int, num_slots: int, iterations: int = 0) -> float:
    """The largest difference of the graph in `file` from `model`; ValueError above `TOLERANCE`.

    `iterations` are the model's own where 0; images are those of `_steady_pictures`.
    """
    iterations = iterations or model.iterations
    images = _steady_images(model, batch, num_slots, iterations)
    noise = _noise(model, batch, num_slots)
    with torch.no_grad():
        expected = model.segment(images, num_slots, iterations, noise=noise[None])
    given = {"image": images, "noise": noise, "iterations": torch.tensor(iterations)}
    found = session(file)(given)
    return _largest_difference(expected.found(), found, f"batch {batch}, {num_slots} slots")


def compare_parts(model: SlotModel, folder: Path, batch: int, num_slots: int, iterations: int = 0) -> float:
    """The largest difference from `model` of what the graphs in `folder` give, one after the other."""
    iterations = iterations or model.iterations
    images = _steady_images(model, batch, num_slots, iterations)
    noise = _noise(model, batch, num_slots)
    run = {name: session(folder / f"{name}.onnx") for name in PARTS}
    with torch.no_grad():
        expected = model.segment(images, num_slots, iterations, noise=noise[None])
    noise_scale = torch.tensor(stages_of_discovery(model).start.own_noise_scale)
    slots = run["start"]({"noise": noise, "noise_scale": noise_scale})["slots"]
    seen = run["encode"]({"image": images})
    bias, attention = np.zeros((batch, num_slots, seen["inputs"].shape[1]), np.float32), []
    for _ in range(iterations):
        after = run["step"]({"slots": slots, "bias": bias, **seen})
        slots, bias = after["slots_after"], after["bias_after"]
        attention.append(after["attention"].reshape(batch, num_slots, *model.feature_grid))
    slots = after["slots_seen"]
    painting = run["paint"]({"slots": slots, "attention": attention[-1]})
    masks = torch.from_numpy(painting["mask_logits"]).softmax(dim=1).numpy()
    found = {
        "reconstruction": (masks[:, :, None] * painting["appearance"]).sum(axis=1),
        "appearance": painting["appearance"],
        "masks": masks,
        "slots": slots,
        "attention": np.stack(attention, axis=1),
    }
    return _largest_difference(expected.found(), found, f"batch {batch}, {num_slots} slots")


def session(file: Path) -> Callable[[dict[str, Any]], dict[str, np.ndarray]]:
    """A graph as a function of named arrays or tensors, run by onnxruntime on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    running = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in running.get_outputs()]

    def run(given: dict[str, Any]) -> dict[str, np.ndarray]:
        arrays = {name: np.asarray(value) for name, value in given.items()}
        return dict(zip(names, running.run(names, arrays), strict=True))

    return run


def _largest_difference(expected: dict[str, Tensor], found: dict[str, np.ndarray], where: str) -> float:
    largest = 0.0
    for name, tensor in expected.items():
        wanted = tensor.numpy()
        difference = np.abs(wanted - found[name]).max() / max(1.0, np.abs(wanted).max())
        if not difference <= TOLERANCE:
            raise ValueError(
                f"the exported graph gives {name} that differ by {difference:.1e} from PyTorch's ({where}), "
                f"more than {TOLERANCE}; nothing was kept. Try other versions of onnxscript and onnxruntime"
            )
        largest = max(largest, float(difference))
    return largest


def _step_graph(model: SlotModel, example: dict[str, Tensor]) -> ModelProto:
    axes = {"slots": "bs", "inputs": "b", "bias": "bs"}
    outputs = ("slots_after", "attention", "bias_after", "slots_seen")
    return trace(_step(model), {name: example[name] for name in axes}, axes, outputs)


def _step(model: SlotModel) -> nn.Module:
    return Step(model).eval()


@torch.no_grad()
def _example(model: SlotModel) -> dict[str, Tensor]:
    """What the parts take: 3 images and 5 slots, sizes that nothing else has."""
    image, noise = example_images(model, 3), _noise(model, 3, 5)
    slots, inputs, bias = Begin(model)(image, noise)
    shares = bias.softmax(dim=1).unflatten(-1, model.feature_grid)
    given = {"image": image, "noise": noise, "noise_scale": torch.zeros(()), "shares": shares}
    return given | {"slots": slots, "inputs": inputs, "bias": bias}


def _noise(model: SlotModel, batch: int, num_slots: int) -> Tensor:
    return torch.from_numpy(start_noise(np.zeros(batch, np.int64), num_slots, model.slot_dim))


@torch.no_grad()
def _steady_images(
    model: SlotModel,
    batch: int,
    num_slots: int,
    iterations: int,
    candidates: int = _CANDIDATES,
) -> Tensor:
    """Of some images that the model is at home with, those that change least by a touch of noise; of more
    where these are not steady.

    Iterations make much of little: on some images PyTorch's own answers, rounded otherwise, differ by more
    than `TOLERANCE`, and say nothing of a graph. A wrong one is wrong on the others too.
    """
    images, noise = example_images(model, candidates), _noise(model, candidates, num_slots)
    touches = torch.from_numpy(start_noise(np.arange(candidates), _TOUCHES, images[0].numel())).unbind(dim=1)
    still, *touched = (
        model.segment(images + 1e-6 * touch.view_as(images), num_slots, iterations, noise=noise[None]).found()
        for touch in (torch.zeros_like(touches[0]), *touches)
    )
    changes = [
        (one - other).abs().flatten(1).amax(dim=1)
        for answer in touched
        for one, other in zip(still.values(), answer.values(), strict=True)
    ]
    change, order = torch.stack(changes).amax(dim=0).sort()
    if change[batch - 1] > _STEADY and candidates < _MORE:
        return _steady_images(model, batch, num_slots, iterations, _MORE)
    return images[order[:batch]]


def _check_kind(model: nn.Module) -> None:
    stages_of(model)
    if model.training or next(model.parameters()).device.type != "cpu":
        raise ValueError("the model must be on the processor and in eval mode; call model.cpu().eval()")


def _new(path: Path, suffix: str) -> Path:
    """`path`, where nothing is yet and something may be."""
    if path.exists():
        raise ValueError(f"{path} exists; name a new one to write to, nothing is replaced")
    if suffix and path.suffix != suffix:
        raise ValueError(f"{path} must end in {suffix}; name it {path.with_suffix(suffix).name}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"there is no folder {path.parent} to write {path.name} to; make it first")
    return path
