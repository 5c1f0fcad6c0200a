"""What recipes share whose slots are over frozen features of images: data, backbone and scores."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from objecthood import metrics
from objecthood.data.published.coco import Coco, Overlaps
from objecthood.data.scene import Dataset, Scenes
from objecthood.data.transforms import mirror
from objecthood.models.base import SlotOutput
from objecthood.nn.frozen_features import Backbone, backbone
from objecthood.nn.randomness import per_image
from objecthood.nn.stored_vit import StoredViT
from objecthood.recipes.base import Model, Recipe
from objecthood.recipes.known_features import cached, known_backbone
from objecthood.recipes.sources import fit_of, open_dataset
from objecthood.visualize import animation, figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class OverFeatures(Recipe):
    """Slots over frozen features of images: the data, the backbone and the scores."""

    data: str = "folder"
    """"folder" (images), "shards" (images in tar files) or "coco" (images/ and instances.json), in
    `data_path`, or another data set of `recipes.discovery`."""
    data_path: str = ""
    """Folder or file of the images."""
    overlaps: Overlaps = "front"
    """Pixels of several objects of COCO: "front" (of the object with fewer pixels) or "ignore" (left out of
    scores, as pixels of crowds: DINOSAUR's protocol)."""
    resolution: int = 224
    """Side of the square images in pixels, a multiple of the backbone's patch."""
    backbone: str
    """"efficientnet-lite0" (comes with the package), "hf:OWNER/NAME" or "timm:NAME", of the commit in
    "NAME@COMMIT"; without it, of the one in the cache, else of the newest."""
    layer: int = 0
    """How many of the backbone's blocks are passed; 0: all."""
    final_norm: bool = False
    """Whether the backbone's last norm is applied."""
    cached: bool = False
    """Whether features are computed once and kept on disk, in the folder that OBJECTHOOD_CACHE names or in
    ~/.cache/objecthood; those of mirrored images are then mirrored features."""

    main_score = "fg_ari"
    floors_by_default = True
    minimums = Recipe.minimums | {"resolution": 8, "layer": 0}
    choices: ClassVar[dict[str, Any]] = {"overlaps": get_args(Overlaps)}

    @property
    @abc.abstractmethod
    def masks_scored(self) -> str:
        """Which masks are scored, for the protocol."""

    def build_backbone(self) -> Backbone | StoredViT:
        """The backbone whose features are used."""
        return backbone(self.backbone, self.layer, self.final_norm)

    def dataset(self, split: str) -> Dataset:
        scenes = open_dataset(self, split)
        if split != "train" and isinstance(scenes, Coco):
            scenes = WithClasses(scenes)
        return self.with_features(scenes) if self.cached else scenes

    def with_features(self, scenes: Dataset) -> Dataset:
        """Scenes with the backbone's features, computed where they are not in the cache."""
        return cached(scenes, known_backbone(self.backbone, self.layer, self.final_norm), self.resolution)

    def augmented(self, model: Model, scenes: Scenes) -> tuple[Tensor, Tensor]:
        """Features of a batch, of which a random half of the images is mirrored, and which half."""
        mirrored = per_image(lambda size: torch.rand(size), len(scenes["image"])) < 0.5
        if "features" in scenes:
            return mirror(scenes["features"], mirrored, dim=2), mirrored
        return model.backbone(mirror(scenes["image"], mirrored, dim=3)), mirrored

    def frozen_features(self, scenes: Scenes) -> Tensor | None:
        if "features" in scenes:
            return scenes["features"]
        features = known_backbone(self.backbone, self.layer, self.final_norm)
        return features(scenes["image"].to(features.device))

    def discover(self, model: Model, scenes: Scenes, indices: Tensor) -> SlotOutput:
        """The model's output for held-out images, from noise fixed by the index."""
        raise NotImplementedError

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        if "masks" not in scenes:
            return {}
        return metrics.dinosaur_scores(scenes["masks"], masks, scenes.get("classes"))

    def preview(self, model: Model, scenes: Scenes) -> Image.Image:
        images = scenes["image"]
        output = self.discover(model, scenes, torch.arange(len(images)))
        assert output.masks is not None
        tinted = figures.overlay(images, output.masks)
        assert isinstance(tinted, list)
        return side_by_side(tinted)

    def figures(self, model: Model, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        first: Scenes = {"image": scenes["image"][:1]}
        attention = self.discover(model, first, torch.arange(1)).attention[0]
        image = first["image"][0]
        return {
            "slots": self.preview(model, scenes),
            "attention": figures.attention_figure(image, attention),
            "attention-animated": animation.attention_frames(image, attention),
        }

    def prepare_for_test(self, model: Model) -> Model:
        model.fit = fit_of(self.data)
        return super().prepare_for_test(model)


class WithClasses(Dataset):
    """Scenes of COCO with a label map of classes beside that of objects."""

    def __init__(self, scenes: Coco):
        self.scenes, self.by_class = scenes, scenes.with_labels("class")

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        scenes = self.scenes.batch(indices)
        scenes["classes"] = self.by_class.batch(indices)["masks"]
        return scenes


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """Images of one size in a row."""
    width, height = images[0].size
    row = Image.new("RGB", (width * len(images), height))
    for number, image in enumerate(images):
        row.paste(image, (number * width, 0))
    return row
