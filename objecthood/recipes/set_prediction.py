"""Set prediction (Locatello et al. 2020, section 4.2): say what is in a picture, scored by average precision.

The exact recipe has the paper's model, batch and schedule, at 128 x 128. The fast one strides earlier and has
Muon, learned slots with bi-level gradient, averaged weights and a smaller batch.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from objecthood import animate, losses, metrics, visualize
from objecthood.data.randomness import start_noise
from objecthood.data.scene import Dataset, Scenes
from objecthood.models import set_predictor
from objecthood.models.set_predictor import SetPrediction as Objects
from objecthood.models.set_predictor import SetPredictor
from objecthood.recipes.base import FAST, Recipe
from objecthood.recipes.sources import Source, open_dataset

THRESHOLDS = (math.inf, 1.0, 0.5, 0.25, 0.125)
"""Largest distances at which a position counts as right, in CLEVR's units (Locatello et al. 2020, figure
5)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetPrediction(Recipe):
    """The paper's model and training."""

    data: str
    """"clevr-like" (rendered here), "clevr" or "multi-object" (published), all in `data_path`."""
    data_path: str = ""
    min_objects: int = 3
    max_objects: int = 10
    resolution: int = 128
    num_slots: int = 10
    test_iterations: int = 3

    main_score = "ap"
    least = Recipe.least | {"resolution": 16, "num_slots": 1, "test_iterations": 1}

    def build_model(self) -> SetPredictor:
        return set_predictor.clevr(self.num_slots, self.resolution)

    def dataset(self, split: str) -> Dataset:
        objects = (self.min_objects, self.max_objects)
        source = Source(
            path=self.data_path,
            split=split,
            seed=0,
            resolution=self.resolution,
            background="grey",
            objects=objects,
        )
        return open_dataset(self.data, source)

    def loss(self, model: SetPredictor, scenes: Scenes, step: int) -> Tensor:
        return losses.set_error(model(scenes["image"]).properties, scenes["properties"])

    def scores(self, model: SetPredictor, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        predicted = self.predict(model, scenes["image"], indices).properties
        return {"predicted": predicted, "target": scenes["properties"]}

    def summarize(self, values: dict[str, Tensor]) -> dict[str, float]:
        scores = {}
        for threshold in THRESHOLDS:
            name = "ap" if threshold == math.inf else f"ap_{threshold:g}"
            predicted, target = values["predicted"], values["target"]
            scores[name] = metrics.average_precision(predicted, target, distance_threshold=threshold)
        return scores

    def predict(self, model: SetPredictor, images: Tensor, indices: Tensor) -> Objects:
        """The model's answer for held-out pictures, with test iterations, from start noise fixed by the
        index."""
        noise = torch.from_numpy(start_noise(np.asarray(indices), model.num_slots, model.slot_dim))
        return model(images, iterations=self.test_iterations, noise=noise.to(images.device))

    def picture(self, model: SetPredictor, scenes: Scenes) -> Image.Image:
        image = scenes["image"][:1]
        return visualize.attention_figure(image[0], self.predict(model, image, torch.arange(1)).attention[0])

    def figures(self, model: SetPredictor, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        image = scenes["image"][:1]
        attention = self.predict(model, image, torch.arange(1)).attention[0]
        animation = animate.attention_frames(image[0], attention)
        return {"attention": self.picture(model, scenes), "attention-animated": animation}

    def prepare_for_test(self, model: SetPredictor) -> SetPredictor:
        model.grouping.slot_attention.iterations = self.test_iterations
        return model.eval()

    @property
    def protocol(self) -> str:
        return (
            f"{self.test_scenes} {self.data} scenes of {self.min_objects} to {self.max_objects} objects held "
            f"out, {self.test_iterations} iterations, {self.num_slots} slots; average precision over all "
            "pictures together, size, material, shape and colour right and the position within any distance, "
            "1, 0.5, 0.25, 0.125"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastSetPrediction(SetPrediction):
    """Strides in the first layers, learned slots."""

    def build_model(self) -> SetPredictor:
        return set_predictor.fast_clevr(self.num_slots, self.resolution)


set_clevr_like = FastSetPrediction(
    name="set-clevr-like",
    description="What is in CLEVR-like scenes rendered here: --data-path FOLDER; an hour on two CPU cores",
    data="clevr-like",
    resolution=64,
    steps=12_000,
    test_iterations=3,
    **FAST | {"batch_size": 32, "evaluate_every": 1000},
)
"""Rendered scenes, on two CPU cores: `objecthood train set-clevr-like --data-path FOLDER`."""

set_clevr10_paper = SetPrediction(
    name="set-clevr10-paper",
    description="The paper's set prediction on CLEVR: --data-path CLEVR_v1.0; for a GPU",
    data="clevr",
    batch_size=512,
    steps=150_000,
    warmup_steps=1000,
    halving_steps=50_000,
    evaluate_every=5000,
)
"""The paper's model and schedule: `objecthood train set-clevr10-paper --data-path CLEVR_v1.0`, for a GPU."""
