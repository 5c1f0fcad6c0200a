"""Public functions called with shapes, kinds and numbers that do not fit: our own error, in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import objecthood as oh
from objecthood.nn import GaussianSlots, LearnedSlots, SlotAttention

Call = tuple[str, Callable[[], object]]


def calls(folder: Path) -> Iterator[Call]:
    """Each must end in a ValueError of one line."""
    model = oh.load("tetrominoes")
    yield from of_models(model)
    yield from of_attention()
    yield from of_metrics()
    yield from of_predict(model, folder)
    yield from of_files(model, folder)


def of_models(model: torch.nn.Module) -> Iterator[Call]:
    image = torch.rand(2, 3, 35, 35)
    noise = torch.randn(2, 4, 64)
    for name, images in {
        "bytes": (image * 255).byte(),
        "whole numbers": (image * 255).long(),
        "truth values": image > 0.5,
        "channels last": image.permute(0, 2, 3, 1),
        "one image": image[0],
        "grey": image[:, :1],
        "other size": torch.rand(2, 3, 64, 64),
        "no time": image[None],
        "nothing": torch.zeros(0),
        "array": image.numpy(),
        "list": image.tolist(),
        "text": "picture.png",
        "none": None,
        "complex": image.to(torch.complex64),
    }.items():
        yield f"model: {name}", lambda images=images: model(images)
    for name, options in {
        "no slots": {"num_slots": 0},
        "fewer slots than none": {"num_slots": -1},
        "half slots": {"num_slots": 2.5},
        "no iterations": {"iterations": 0},
        "half iterations": {"iterations": 1.5},
        "noise of few slots": {"noise": noise[:, :3], "num_slots": 6},
        "noise of one": {"noise": noise[0], "num_slots": 6},
    }.items():
        yield f"model: {name}", lambda options=options: model(image, **options)
    properties = oh.load("set-clevr")
    yield "set model: other size", lambda: properties(image)
    yield "set model: bytes", lambda: properties(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))


def of_attention() -> Iterator[Call]:
    group, inputs, slots = SlotAttention(8, 16), torch.randn(2, 5, 8), torch.randn(2, 3, 16)
    for name, arguments in {
        "other input_dim": (inputs[..., :7], slots),
        "other slot_dim": (inputs, slots[..., :7]),
        "no slots": (inputs, slots[:, :0]),
        "no inputs": (inputs[:, :0], slots),
        "other batch": (inputs, slots[:1].repeat(3, 1, 1)),
        "two axes": (inputs[0], slots[0]),
        "no iterations": (inputs, slots, 0),
        "mask of another size": (inputs, slots, 3, torch.ones(2, 4) > 0),
        "mask of numbers": (inputs, slots, 3, torch.ones(2, 5)),
        "whole numbers": (inputs.long(), slots),
        "slots of whole numbers": (inputs, slots.long()),
        "array": (inputs.numpy(), slots),
        "half iterations": (inputs, slots, 2.5),
        "doubles": (inputs.double(), slots.double()),
    }.items():
        yield f"attention: {name}", lambda arguments=arguments: group(*arguments)
    yield "attention: gradient", lambda: SlotAttention(8, 16, gradient="none")
    for kind in (GaussianSlots, LearnedSlots):
        yield f"{kind.__name__}: noise", lambda kind=kind: kind(4, 16)(2, 6, torch.randn(2, 3, 16))
        yield f"{kind.__name__}: no slots", lambda kind=kind: kind(4, 16)(2, 0)


def of_metrics() -> Iterator[Call]:
    truth = torch.randint(0, 3, (2, 6, 6))
    for metric in (oh.metrics.mean_best_overlap, oh.metrics.mean_iou):
        yield f"{metric.__name__}: other size", lambda metric=metric: metric(truth, truth[:, :5])
        yield f"{metric.__name__}: one image", lambda metric=metric: metric(truth[0], truth[0])
    ari = lambda *masks: oh.metrics.adjusted_rand_index(*masks, ignore_background=True)  # noqa: E731
    for name, masks in {
        "other batch": (truth, truth[:1]),
        "negative labels": (truth, truth - 5),
        "floats": (truth.float(), truth),
        "predicted floats": (truth, truth.float()),
        "nan": (truth, torch.full((2, 3, 6, 6), torch.nan)),
        "arrays": (truth.numpy(), truth.numpy()),
        "soft of another size": (truth, torch.rand(2, 3, 5, 6)),
    }.items():
        yield f"ari: {name}", lambda masks=masks: ari(*masks)
    precision = lambda *sets: oh.metrics.average_precision(*sets, distance_threshold=1.0)  # noqa: E731
    yield "precision: 18 numbers", lambda: precision(torch.rand(2, 5, 18), torch.rand(2, 5, 18))
    yield "precision: other batch", lambda: precision(torch.rand(2, 5, 19), torch.rand(3, 5, 19))
    yield "precision: one image", lambda: precision(torch.rand(5, 19), torch.rand(5, 19))


def of_predict(model: torch.nn.Module, folder: Path) -> Iterator[Call]:
    picture = np.zeros((9, 9, 3), np.uint8)
    for name, pictures in {
        "grey array": picture[..., 0],
        "floats": picture.astype(float),
        "four channels": np.zeros((9, 9, 4), np.uint8),
        "empty array": picture[:0],
        "channels last tensor": torch.rand(9, 9, 3),
        "tensor of bytes": torch.zeros(3, 9, 9, dtype=torch.uint8),
        "nan": torch.full((3, 9, 9), torch.nan),
        "beyond 1": torch.full((3, 9, 9), 2.0),
        "number": 5,
        "none among them": [picture, None],
        "no bytes": b"",
        "missing file": folder / "none.png",
        "list of nothing": [],
        "empty image": Image.new("RGB", (0, 0)),
        "dictionary": {"image": picture},
    }.items():
        yield f"predict: {name}", lambda pictures=pictures: oh.predict(model, pictures)
    for name, options in {
        "no slots": {"num_slots": 0},
        "many slots": {"num_slots": 257},
        "half slots": {"num_slots": 2.5},
        "no iterations": {"iterations": 0},
        "no batch": {"batch_size": 0},
        "slots of text": {"num_slots": "4"},
    }.items():
        yield f"predict: {name}", lambda options=options: oh.predict(model, picture, **options)
    yield "predict: other model", lambda: oh.predict(torch.nn.Linear(2, 2), picture)
    yield "predict: no model", lambda: oh.predict(5, picture)


def of_files(model: torch.nn.Module, folder: Path) -> Iterator[Call]:
    yield "load: nothing", lambda: oh.load("nothing")
    yield "load: a folder", lambda: oh.load(folder)
    yield "save: a folder", lambda: oh.save(model, model.recipe, folder)
    yield "save: no folder", lambda: oh.save(model, model.recipe, folder / "none" / "w.safetensors")
    yield "evaluate: recipe", lambda: oh.evaluate(model, "nothing")
    yield "evaluate: split", lambda: oh.evaluate(model, "tetrominoes", split="middle")
    yield "evaluate: no scenes", lambda: oh.evaluate(model, "tetrominoes", num_scenes=0)
    yield "evaluate: no batch", lambda: oh.evaluate(model, "tetrominoes", batch_size=0)
    yield "train: device", lambda: oh.train(model.recipe, folder / "run", device="tpu")


def test_what_does_not_fit_is_refused_in_one_line(tmp_path, unchecked, scoreboard):
    count, wrong = 0, []
    for name, call in calls(tmp_path):
        count += 1
        with pytest.raises(Exception) as caught:
            pytest.fail(f"{name} gave {type(call()).__name__}")
        told = str(caught.value)
        if not isinstance(caught.value, ValueError) or "\n" in told:
            wrong.append(f"{name}: {type(caught.value).__name__}: {told:.200}")
    assert not wrong and count >= 60, "\n".join(wrong)
    what = "functions called with shapes, kinds and numbers that do not fit: our own error, in one line"
    scoreboard("The functions", what, count)
