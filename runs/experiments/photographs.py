"""Score segments of photographs by DINOSAUR's protocol: results/photographs.json.

    python runs/experiments/photographs.py select FOLDER SELECT.json
    python runs/experiments/photographs.py report FOLDER ANNOTATIONS.json --without FOLDER FOLDER

Annotations are COCO's. "select" is the part on which settings were chosen, "report" another one, scored with
the same settings; `--without` leaves out photographs whose file names occur in those folders. Each call
writes its part of the file; `--slots` adds a measurement to it, `--runs` adds trained models (run folders),
and `--rows` prints some rows alone, `--add` writes them beside those that are there.

Protocol (Seitzer et al. 2023, arXiv 2209.14860): central square, scored at 320 x 320 pixels;
foreground ARI over instances, mean best overlap over instances and over classes; pixels of crowds and of two
objects are ignored; means over the photographs that have an object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pycocotools import mask as tools
from torch import Tensor

import objecthood as oh
from objecthood.analysis.baselines import POSITION_WEIGHT, blocks, feature_kmeans
from objecthood.data.io.images import read_image, resize_image
from objecthood.data.transforms import as_images, central_square, resize_nearest
from objecthood.export.export import session
from objecthood.export.photographs import graphs
from objecthood.metrics import dinosaur_scores
from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn.backbones import EfficientNetLite0
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.guided_filter import masks_at_size
from objecthood.nn.normalised_cut import affinity, kmeans, normalised_cut
from objecthood.runtime.environment import commit, describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "photographs.json"
SIDE = 320
SEEDS = (0, 1, 2)
PROTOCOL = (
    "central square at 320 x 320; FG-ARI and mBO_i over instances, mBO_c over classes; crowds and overlaps "
    "ignored; means over photographs; seeds of k-means: 0, 1, 2 (mean, and range over seeds)"
)
BACKBONE = EfficientNetLite0.bundled()
Segmenter = Callable[[Tensor, int], Tensor]


def colour_segments(image: Tensor, seed: int) -> Tensor:
    """k-means, K 7, on colour in [0, 1] and place in sides of the image, of 80 x 80 pixels."""
    small = F.interpolate(image[None], size=(80, 80), mode="bilinear", antialias=True)[0]
    labels = kmeans(torch.cat([small, places(80)]).flatten(1).T, 7, 3, 15, seed)
    return enlarged(labels.view(80, 80))


def feature_segments(image: Tensor, seed: int) -> Tensor:
    """k-means, K 7, on the unit embedding and the place, of 20 x 20 cells."""
    embedding = SpectralSegmenter(BACKBONE, sides=(320,)).embed(image).scales[0]
    return enlarged(feature_kmeans(embedding[None], 7, seed)[0])


def cut_segments(
    side: int, num_segments: int = 12, merged_from: int = 0, guided: bool = True, **settings: float
) -> Segmenter:
    """The normalised cut with these settings, into `num_segments`, or into `merged_from` that are merged by
    mean affinity."""

    def segment(image: Tensor, seed: int) -> Tensor:
        embedding = SpectralSegmenter(BACKBONE, sides=(side,)).embed(image).scales[0]
        labels = normalised_cut(embedding, merged_from or num_segments, seed, **settings)  # type: ignore[arg-type]
        if merged_from:
            labels = merge_by_affinity(affinity(embedding, 0.05, 0.15), labels, num_segments)
        if not guided:
            return enlarged(labels)
        return masks_at_size(F.one_hot(labels).permute(2, 0, 1).float(), image).argmax(dim=0)

    return segment


def merge_by_affinity(weights: Tensor, labels: Tensor, number: int) -> Tensor:
    """Merge the two segments of highest mean affinity until `number` are left."""
    members = F.one_hot(labels.flatten()).to(weights)
    while members.shape[1] > number:
        sizes = members.sum(dim=0)
        mean = members.T @ weights @ members / (sizes[:, None] * sizes)
        mean.fill_diagonal_(-1)
        first, second = sorted(divmod(int(mean.argmax()), len(mean)))
        members[:, first] += members[:, second]
        members = torch.cat([members[:, :second], members[:, second + 1 :]], dim=1)
    return members.argmax(dim=1).unique(return_inverse=True)[1].view_as(labels)


def consensus_segments(image: Tensor, seed: int) -> Tensor:
    """The consensus of cuts, as `SpectralSegmenter` has it; restarts of three seeds share no start."""
    return SpectralSegmenter(BACKBONE, ConsensusCut(seed=100 * seed)).divide(image).masks.argmax(dim=0)


def plain_consensus_segments(image: Tensor, seed: int) -> Tensor:
    """The same without objectness."""
    found = ConsensusCut(seed=100 * seed)(SpectralSegmenter(BACKBONE).embed(image).scales)
    return masks_at_size(found.attention, image).argmax(dim=0)


@cache
def exported(seed: int) -> Callable[[dict], dict]:
    """What `objecthood export photos` writes; graphs differ by the seed."""
    stages = SpectralSegmenter(BACKBONE, ConsensusCut(seed=100 * seed)).export_stages()
    return session(graphs(stages)["whole"].SerializeToString())


def exported_segments(image: Tensor, seed: int) -> Tensor:
    found = exported(seed)({"image": image[None], "num_segments": 0})
    return torch.from_numpy(found["masks"]).argmax(dim=0)


ROWS: dict[str, tuple[str, Segmenter, bool]] = {
    "blocks": ("equal blocks, 3 x 3", lambda image, seed: blocks(image[None], 9)[0], False),
    "colour-kmeans": ("k-means on colour and place, K 7", colour_segments, True),
    "feature-kmeans": ("k-means on features and place, 20 x 20, K 7", feature_segments, True),
    "cut-20": (
        "normalised cut, 20 x 20, K 7",
        cut_segments(320, guided=False, num_segments=7, reach=0.25, offset=0.02),
        True,
    ),
    "cut-28": ("normalised cut, 28 x 28, K 12, guided filter", cut_segments(448), True),
    "cut-28-merged": (
        "normalised cut, 28 x 28, K 24 merged to 12 by mean affinity, guided filter",
        cut_segments(448, num_vectors=16, merged_from=24),
        True,
    ),
    "consensus-plain": (
        "consensus of 36 cuts, 28 x 28, number of segments by agreement, guided filter",
        plain_consensus_segments,
        True,
    ),
    "consensus": ("the same with objectness", consensus_segments, True),
    "onnx": ("`photos` as an ONNX graph", exported_segments, True),
}


def places(side: int) -> Tensor:
    """[2, side, side]: row and column in sides of the image, weighted."""
    line = torch.arange(side) / side
    return POSITION_WEIGHT * torch.stack(torch.meshgrid(line, line, indexing="ij"))


def enlarged(labels: Tensor) -> Tensor:
    """The largest of the labels' masks, enlarged bilinearly to 320 x 320."""
    masks = F.one_hot(labels).movedim(-1, 0)[None].float()
    return F.interpolate(masks, size=(SIDE, SIDE), mode="bilinear")[0].argmax(dim=0)


def parser_of(text: str | None) -> argparse.ArgumentParser:
    """A parser of the part and of where its photographs are (`scenes_of`)."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("select", "report"))
    parser.add_argument("images", type=Path)
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--without", type=Path, nargs="+", default=[])
    return parser


def scenes_of(arguments: argparse.Namespace) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The photographs of a part, without those of other folders."""
    left_out = {path.name.removeprefix("coco_") for folder in arguments.without for path in folder.iterdir()}
    return photographs(arguments.images, arguments.annotations, left_out)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), help="print these; write nothing")
    parser.add_argument("--add", nargs="+", choices=list(ROWS), help="measure these alone and add them")
    parser.add_argument("--runs", type=Path, nargs="+", help="score the models of these run folders as well")
    parser.add_argument("--slots", action="store_true", help="measure the slots alone: see `slot_retrieval`")
    arguments = parser.parse_args()
    scenes = scenes_of(arguments)
    if arguments.runs:
        found = json.loads(TARGET.read_text())
        for run in arguments.runs:
            row = scored_run(run, scenes)
            print(run, row, flush=True)
            found[arguments.part].setdefault("runs", []).append(row)
        TARGET.write_text(json.dumps(found, indent=1) + "\n")
        return
    if arguments.slots:
        found = json.loads(TARGET.read_text())
        found[arguments.part]["slots"] = slot_retrieval(scenes)
        TARGET.write_text(json.dumps(found, indent=1) + "\n")
        return
    rows = {}
    for name in arguments.rows or arguments.add or ROWS:
        rows[name] = scored(name, scenes)
        print(name, rows[name], flush=True)
    if arguments.rows:
        return
    found = json.loads(TARGET.read_text()) if TARGET.exists() else {}
    if arguments.add:
        for row in rows.values():
            row |= {"commit": commit()}
        found[arguments.part]["rows"] |= rows
        TARGET.write_text(json.dumps(found, indent=1) + "\n")
        return
    found[arguments.part] = {
        "photographs": len(scenes),
        "rows": rows,
        "protocol": PROTOCOL,
        "backbone": vars(BACKBONE.identity),
        "machine": describe(),
    }
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


def photographs(images: Path, annotations: Path, left_out: set[str]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Image [3, 320, 320], label maps of instances and of classes [320, 320]; those with an object."""
    content = json.loads(annotations.read_text())
    numbers = {category["id"]: label for label, category in enumerate(content["categories"], 1)}
    found = []
    for facts in content["images"]:
        if facts["file_name"] in left_out:
            continue
        objects = [entry for entry in content["annotations"] if entry["image_id"] == facts["id"]]
        size = (facts["height"], facts["width"])
        instances, classes = label_maps([entry for entry in objects if entry["segmentation"]], numbers, size)
        window = central_square(*size)
        square = np.ascontiguousarray(read_image(images / facts["file_name"])[window])
        picture = resize_image(square, (SIDE, SIDE))
        labels = [torch.from_numpy(resize_nearest(part[window], SIDE)) for part in (instances, classes)]
        if (labels[0] > 0).any():
            found.append((as_images(picture[None])[0], *labels))
    return found


def label_maps(
    objects: list[dict], numbers: dict[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Instances and classes: 0 background, -1 where crowds are or two objects."""
    instances, classes, covered = np.zeros(size, int), np.zeros(size, int), np.zeros(size, int)
    for label, entry in enumerate(objects, 1):
        code = entry["segmentation"]
        if isinstance(code, list) or isinstance(code["counts"], list):
            code = tools.frPyObjects(code, *size)
        mask = tools.decode(tools.merge(code) if isinstance(code, list) else code).astype(bool)
        instances[mask], classes[mask] = label, numbers[entry["category_id"]]
        covered += mask * (2 if entry.get("iscrowd") else 1)
    instances[covered > 1], classes[covered > 1] = -1, -1
    return instances, classes


def scored(name: str, scenes: list[tuple[Tensor, Tensor, Tensor]]) -> dict:
    """Mean scores in [0, 1], their range over seeds, and CPU seconds of an image, features included."""
    title, segment, seeded = ROWS[name]
    runs, began = [], time.process_time()
    for seed in SEEDS if seeded else (0,):
        labels = torch.stack([segment(image, seed) for image, _, _ in scenes])
        runs.append((time.process_time() - began, scores(scenes, labels)))
        began = time.process_time()
    means = {key: statistics.mean(found[key] for _, found in runs) for key in runs[0][1]}
    return {
        "title": title,
        **{key: round(value, 4) for key, value in means.items()},
        "range": {key: [round(f({found[key] for _, found in runs}), 4) for f in (min, max)] for key in means},
        "cpu_seconds": round(statistics.mean(seconds for seconds, _ in runs) / len(scenes), 4),
    }


def scored_run(run: Path, scenes: list[tuple[Tensor, Tensor, Tensor]]) -> dict:
    """Mean scores of a trained model, with its recipe, seed, commit and CPU seconds."""
    result, began = json.loads((run / "result.json").read_text()), time.process_time()
    model, facts = oh.load(run), oh.checkpoint.read_description(run / "weights.safetensors")
    side = model.image_size[0]
    labels = []
    with torch.no_grad():
        for image, _, _ in scenes:
            seen = image[None]
            if not model.any_size:
                seen = F.interpolate(seen, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
            masks = F.interpolate(model.segment(seen).masks, size=(SIDE, SIDE), mode="bilinear")
            labels.append(masks[0].argmax(dim=0))
    seconds = (time.process_time() - began) / len(scenes)
    means = scores(scenes, torch.stack(labels))
    return {key: round(value, 4) for key, value in means.items()} | {
        "recipe": result["recipe"],
        "settings": {key: value for key, value in result["settings"].items() if key != "data_path"},
        "seed": result["seed"],
        "commit": facts["commit"],
        "training_cpu_seconds": result["cpu_seconds"],
        "cpu_seconds": round(seconds, 4),
    }


def slot_retrieval(scenes: list[tuple[Tensor, Tensor, Tensor]]) -> dict:
    """How often the slot of an object is nearer to one of its class in another photograph than to others.

    An object has the slot of the mask of largest overlap, if that is 0.3 or more. "auc": of all pairs of
    objects of two photographs, the chance that one of one class has the larger cosine than one of two;
    "nearest": share of objects whose nearest in another photograph has their class, among objects of
    classes that occur in two photographs; "chance": the same for one drawn at random.
    """
    slots, classes, photographs = [], [], []
    for number, (image, instances, labels) in enumerate(scenes):
        output = SpectralSegmenter(BACKBONE).divide(image)
        segments = F.one_hot(output.masks.argmax(dim=0), len(output.slots)).movedim(-1, 0).bool()
        for label in instances[instances > 0].unique():
            thing = instances == label
            counted = segments & (instances >= 0)
            overlap = (counted & thing).sum(dim=(1, 2)) / (counted | thing).sum(dim=(1, 2))
            if overlap.max() >= 0.3:
                slots.append(output.slots[overlap.argmax()])
                classes.append(int(labels[thing].mode().values))
                photographs.append(number)
    cosines = torch.stack(slots) @ torch.stack(slots).T
    of_class, photograph = torch.tensor(classes), torch.tensor(photographs)
    apart = photograph[:, None] != photograph
    same = (of_class[:, None] == of_class) & apart
    order = cosines[apart].argsort().argsort().double()
    alike = same[apart]
    positives, negatives = int(alike.sum()), int((~alike).sum())
    auc = (order[alike].sum() - positives * (positives - 1) / 2) / (positives * negatives)
    asked = same.any(dim=1)
    nearest = cosines.masked_fill(~apart, -2).argmax(dim=1)
    right = same.gather(1, nearest[:, None])[:, 0][asked]
    return {
        "objects": len(slots),
        "auc": round(auc.item(), 4),
        "nearest": round(right.double().mean().item(), 4),
        "chance": round((same.sum(dim=1) / apart.sum(dim=1))[asked].double().mean().item(), 4),
        "protocol": "objects of overlap 0.3 or more with a mask; pairs of two photographs",
    }


def scores(scenes: list[tuple[Tensor, Tensor, Tensor]], labels: Tensor) -> dict[str, float]:
    """Means over photographs."""
    instances, classes = (torch.stack([scene[part] for scene in scenes]) for part in (1, 2))
    values = dinosaur_scores(instances, labels, classes)
    return {name: value.nanmean().item() for name, value in values.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
