"""Export a model to ONNX and keep the files only if they match PyTorch.

`export_onnx` writes one graph with the initial noise and the number of iterations as inputs; `export_parts`
writes one graph per stage (`export.stages`), which the demo page combines. Both include the attention bias.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

import objecthood
from objecthood.data.randomness import start_noise
from objecthood.export.examples import example_images
from objecthood.export.graph import check_difference, repeat, trace
from objecthood.export.stages import (
    FirstStage,
    LastStage,
    Start,
    Step,
    export_stages_of,
    stages_of_discovery,
)
from objecthood.models import SlotModel
from objecthood.models.base import ExportStages, FeatureStages, PhotographStages
from objecthood.runtime.environment import commit
from objecthood.runtime.files import new_path, staged

if TYPE_CHECKING:
    from onnx import ModelProto

TOLERANCE = 1e-4
"""Largest absolute difference from PyTorch, relative to the largest value of the output or 1, whichever is
larger: images, masks and attention reach about 1, slots about 10."""
BATCHES = (1, 4)
_CANDIDATES, _MORE, _PERTURBATIONS = 32, 96, 3
_STABLE = 3e-5
"""Largest change of the output, under noise of 1e-6, of an image that is used for comparison."""
PARTS = ("start", "encode", "step", "decode")


Report = Callable[[str], None]


def silent(text: str) -> None:
    """A `Report` that does nothing."""


def export_onnx(model: SlotModel, path: str | Path, *, report: Report = silent) -> Path:
    """Write `model` as one ONNX graph to a new file.

    Inputs: `image` [batch, 3, height, width] in [0, 1]; `noise` [batch, slots, slot_dim], standard normal,
    whose shape sets the number of slots (learned queries ignore it, additional slots use it); `iterations`, a
    whole number. The graph computes one restart. Outputs: those of the model (reconstruction, appearance and
    masks, or properties), `slots`, and `attention` [batch, iterations, slots, rows, columns].

    For `photos` and `photos-affinity` the inputs are `image` [1, 3, height, width], of any size, and
    `num_segments`, 0 for the number that the model finds; the outputs are `slots` [segments, dim],
    `attention` [segments, rows, columns] and `masks` [segments, height, width]. For slots over frozen
    features (`photos-slots`) the input is `image`, as for `photos`, and the outputs are the same, of a fixed
    number of slots.

    Raises:
        ValueError: the file exists, the model cannot be exported, or the graph differs from PyTorch by more
            than 1e-4 for batches of 1 or 4; no file is written.

    Example:
        >>> import tempfile
        >>> from objecthood.models import autoencoder
        >>> model = autoencoder.fast_tetrominoes().eval()
        >>> file = export_onnx(model, f"{tempfile.mkdtemp()}/pieces.onnx")  # doctest: +SKIP
    """
    stages = _check_kind(model)
    path = new_path(Path(path), ".onnx")
    with staged(path) as place:
        if isinstance(stages, PhotographStages):
            place.write_bytes(_photographs(model, stages, report)["whole"])
            return path
        if isinstance(stages, FeatureStages):
            place.write_bytes(_feature_slots(model, stages, True, report))
            return path
        report("tracing the model")
        graph = whole_graph(model)
        describe(graph, model)
        place.write_bytes(graph.SerializeToString())
        for batch, num_slots in _comparisons(model):
            report(f"comparing with PyTorch: batch {batch}, {num_slots} slots")
            compare_whole(model, place, batch, num_slots)
    return path


def _comparisons(model: SlotModel) -> list[tuple[int, int]]:
    """Pairs of batch size and number of slots."""
    return [*((batch, model.num_slots) for batch in BATCHES), (2, model.num_slots + 2)]


def export_parts(model: SlotModel, folder: str | Path, *, report: Report = silent) -> Path:
    """Write the stages of a discovery model as ONNX graphs into a new folder, with facts in `model.json`.

    The graphs are `start` (noise, noise_scale -> slots), `encode` (image -> inputs), `step` (slots, inputs,
    bias -> slots_after, attention, bias_after, slots_seen) and `decode` (slots, attention -> appearance,
    mask_logits). The first bias is 0; `slots_seen` are the slots to decode. Shapes are those of
    `export.stages`, with dynamic batch and number of slots.

    For `photos` and `photos-affinity` they are `group` (image -> embedding, agreement, parents, heights) and
    `divide` (image, these, num_segments -> slots, attention, masks): see `export.photographs`. For slots over
    frozen features it is one, `segment` (image, whose sides are multiples of 16 -> slots, attention, masks).

    Raises:
        ValueError: as `export_onnx`.
    """
    stages = _check_kind(model)
    folder = new_path(Path(folder), "")
    if isinstance(stages, ExportStages):
        stages_of_discovery(model)
    with staged(folder) as place:
        place.mkdir()
        (place / "model.json").write_text(json.dumps(facts(model), indent=1) + "\n")
        if isinstance(stages, PhotographStages):
            made = _photographs(model, stages, report)
            for name in ("group", "divide"):
                (place / f"{name}.onnx").write_bytes(made[name])
            return folder
        if isinstance(stages, FeatureStages):
            (place / "segment.onnx").write_bytes(_feature_slots(model, stages, False, report))
            return folder
        report("tracing the stages of the model")
        for name, graph in part_graphs(model).items():
            describe(graph, model)
            (place / f"{name}.onnx").write_bytes(graph.SerializeToString())
        for batch, num_slots in _comparisons(model):
            report(f"comparing with PyTorch: batch {batch}, {num_slots} slots")
            compare_parts(model, place, batch, num_slots)
    return folder


def _photographs(model: SlotModel, stages: PhotographStages, report: Report) -> dict[str, bytes]:
    """The graphs of `export.photographs`, compared with PyTorch, as files."""
    from objecthood.export import photographs

    report("building the graphs")
    graphs = photographs.graphs(stages)
    for graph in graphs.values():
        describe(graph, model)
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    report("comparing with PyTorch")
    photographs.compare(stages, {name: session(file) for name, file in files.items()})
    return files


def _feature_slots(model: SlotModel, stages: FeatureStages, resizes: bool, report: Report) -> bytes:
    """The graph of `export.feature_slots`, compared with PyTorch, as a file."""
    from objecthood.export import feature_slots

    report("tracing the grouping")
    graph = feature_slots.graph(stages, resizes)
    describe(graph, model)
    file = graph.SerializeToString()
    report("comparing with PyTorch")
    feature_slots.compare(stages, session(file))
    return file


def facts(model: SlotModel) -> dict[str, Any]:
    """Facts needed to use an exported graph, as JSON values."""
    stages, made = export_stages_of(model), {"version": objecthood.__version__, "commit": commit()}
    if isinstance(stages, PhotographStages):
        return made | {"kind": "photographs", "sides": list(stages.sides)}
    if isinstance(stages, FeatureStages):
        return made | {"kind": "live", "num_slots": model.num_slots}
    recipe = getattr(model, "recipe", None)
    return made | {
        "kind": "slots",
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
    """Store `facts` in the metadata of a graph, under "objecthood"."""
    from onnx import helper

    graph.producer_name, graph.producer_version = "objecthood", objecthood.__version__
    helper.set_model_props(graph, {"objecthood": json.dumps(facts(model))})


def whole_graph(model: SlotModel) -> ModelProto:
    """The graph of `export_onnx`, not yet verified."""
    stage = LastStage(model)
    example = _example(model)
    first = trace(
        FirstStage(model).eval(),
        {name: example[name] for name in ("image", "noise")},
        {"image": "b", "noise": "bs"},
        ("slots", "inputs", "bias"),
    )
    last = trace(
        stage.eval(),
        {"slots": example["slots"], "attention": example["shares"]},
        {"slots": "bs", "attention": "bs"},
        stage.names,
    )
    return repeat(first, _step_graph(model, example), last, model.feature_grid)


def part_graphs(model: SlotModel) -> dict[str, ModelProto]:
    """The graphs of `export_parts` by name, not yet verified."""
    example, stages = _example(model), stages_of_discovery(model)
    return {
        "start": trace(
            stages.start.eval(),
            {name: example[name] for name in ("noise", "noise_scale")},
            {"noise": "bs"},
            ("slots",),
        ),
        "encode": trace(stages.encode.eval(), {"image": example["image"]}, {"image": "b"}, ("inputs",)),
        "step": _step_graph(model, example),
        "decode": trace(
            stages.decode.eval(),
            {"slots": example["slots"], "attention": example["shares"]},
            {"slots": "bs", "attention": "bs"},
            ("appearance", "mask_logits"),
        ),
    }


def compare_whole(model: SlotModel, file: Path, batch: int, num_slots: int, iterations: int = 0) -> float:
    """The largest difference of the graph in `file` from `model`; ValueError above `TOLERANCE`.

    With `iterations` 0 the model's own number is used; the images come from `_stable_images`.
    """
    iterations = iterations or model.iterations
    images = _stable_images(model, batch, num_slots, iterations)
    noise = _noise(model, batch, num_slots)
    with torch.no_grad():
        expected = model.segment(images, num_slots, iterations, noise=noise[None])
    given = {"image": images, "noise": noise, "iterations": torch.tensor(iterations)}
    found = session(file)(given)
    return _largest_difference(expected.found(), found, f"batch {batch}, {num_slots} slots")


def compare_parts(model: SlotModel, folder: Path, batch: int, num_slots: int, iterations: int = 0) -> float:
    """The largest difference of the graphs in `folder`, run in sequence, from `model`."""
    iterations = iterations or model.iterations
    images = _stable_images(model, batch, num_slots, iterations)
    noise = _noise(model, batch, num_slots)
    run = {name: session(folder / f"{name}.onnx") for name in PARTS}
    with torch.no_grad():
        expected = model.segment(images, num_slots, iterations, noise=noise[None])
    noise_scale = torch.tensor(stages_of_discovery(model).start.own_noise_scale)
    slots = run["start"]({"noise": noise, "noise_scale": noise_scale})["slots"]
    encoded = run["encode"]({"image": images})
    bias, attention = np.zeros((batch, num_slots, encoded["inputs"].shape[1]), np.float32), []
    for _ in range(iterations):
        after = run["step"]({"slots": slots, "bias": bias, **encoded})
        slots, bias = after["slots_after"], after["bias_after"]
        attention.append(after["attention"].reshape(batch, num_slots, *model.feature_grid))
    slots = after["slots_seen"]
    decoded = run["decode"]({"slots": slots, "attention": attention[-1]})
    masks = torch.from_numpy(decoded["mask_logits"]).softmax(dim=1).numpy()
    found = {
        "reconstruction": (masks[:, :, None] * decoded["appearance"]).sum(axis=1),
        "appearance": decoded["appearance"],
        "masks": masks,
        "slots": slots,
        "attention": np.stack(attention, axis=1),
    }
    return _largest_difference(expected.found(), found, f"batch {batch}, {num_slots} slots")


def session(file: Path | bytes) -> Callable[[dict[str, Any]], dict[str, np.ndarray]]:
    """A graph, by its file or as its bytes, as a function of named arrays or tensors, run by onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
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
        difference = float(np.abs(wanted - found[name]).max() / max(1.0, np.abs(wanted).max()))
        check_difference(name, difference, TOLERANCE, f" ({where})")
        largest = max(largest, difference)
    return largest


def _step_graph(model: SlotModel, example: dict[str, Tensor]) -> ModelProto:
    axes = {"slots": "bs", "inputs": "b", "bias": "bs"}
    outputs = ("slots_after", "attention", "bias_after", "slots_seen")
    return trace(Step(model).eval(), {name: example[name] for name in axes}, axes, outputs)


@torch.no_grad()
def _example(model: SlotModel) -> dict[str, Tensor]:
    """Example inputs of all stages: 3 images and 5 slots, sizes that no other axis has."""
    image, noise = example_images(model, 3), _noise(model, 3, 5)
    slots, inputs, bias = FirstStage(model)(image, noise)
    shares = bias.softmax(dim=1).unflatten(-1, model.feature_grid)
    given = {"image": image, "noise": noise, "noise_scale": torch.zeros(()), "shares": shares}
    return given | {"slots": slots, "inputs": inputs, "bias": bias}


def _noise(model: SlotModel, batch: int, num_slots: int) -> Tensor:
    return start_noise(np.zeros(batch, np.int64), num_slots, model.slot_dim)


@torch.no_grad()
def _stable_images(
    model: SlotModel,
    batch: int,
    num_slots: int,
    iterations: int,
    candidates: int = _CANDIDATES,
) -> Tensor:
    """The example images whose outputs change least under small noise, from more candidates if needed.

    Iterations amplify rounding: on some images PyTorch itself differs by more than `TOLERANCE` under another
    rounding, so that a comparison means nothing. A wrong graph is wrong on the stable images too.
    """
    images, noise = example_images(model, candidates), _noise(model, candidates, num_slots)
    added = start_noise(np.arange(candidates), _PERTURBATIONS, images[0].numel()).unbind(dim=1)
    clean, *perturbed = (
        model.segment(images + 1e-6 * one.view_as(images), num_slots, iterations, noise=noise[None]).found()
        for one in (torch.zeros_like(added[0]), *added)
    )
    changes = [
        (one - other).abs().flatten(1).amax(dim=1)
        for outputs in perturbed
        for one, other in zip(clean.values(), outputs.values(), strict=True)
    ]
    change, order = torch.stack(changes).amax(dim=0).sort()
    if change[batch - 1] > _STABLE and candidates < _MORE:
        return _stable_images(model, batch, num_slots, iterations, _MORE)
    return images[order[:batch]]


def _check_kind(model: nn.Module) -> ExportStages | PhotographStages | FeatureStages:
    stages = export_stages_of(model)
    if model.training or next(model.parameters()).device.type != "cpu":
        raise ValueError("the model must be on the CPU and in eval mode; call model.cpu().eval()")
    kind = next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
    if kind != torch.float32:
        raise ValueError(f"the model must be of float32, not {kind}; call model.float()")
    return stages
