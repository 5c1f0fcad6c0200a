"""Set prediction (Locatello et al. 2020, section 4.2): say what is in an image, scored by average precision.

The exact recipe has the paper's model, batch and schedule, at 128 x 128. The fast one, for two CPU cores, has
a cheaper encoder, learned slots, Muon, averaged weights, losses on the slots of every iteration, mirrored
images, and a loss that tells features what object is seen there: variants, not the paper's method.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from objecthood import losses, metrics
from objecthood.data.clevr_properties import EXTENT
from objecthood.data.clevr_render.arrangement import CAMERA
from objecthood.data.clevr_render.scene import camera_axes
from objecthood.data.clevr_render.view import (
    CROP_CENTRE,
    CROP_SIDE,
    FRAME_HEIGHT,
    FRAME_WIDTH,
    TANGENT_PER_PIXEL,
)
from objecthood.data.randomness import start_noise
from objecthood.data.scene import Dataset, Scenes
from objecthood.models import set_predictor
from objecthood.models.set_predictor import SetPredictor, SetPredictorOutput, sample_at
from objecthood.nn.matching import assign
from objecthood.nn.randomness import per_image
from objecthood.recipes.base import FAST, Recipe
from objecthood.recipes.sources import Source, fit_of, open_dataset
from objecthood.visualize import animation, figures

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
    intermediate_losses: bool = False
    """Whether the slots of every iteration are compared with the objects, and not the last's alone."""

    main_score = "ap"
    minimums = Recipe.minimums | {"resolution": 16, "num_slots": 1, "test_iterations": 1}

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
        answers = self.answers(model, model.encode(scenes["image"]))
        errors = [losses.matching_loss(answer.properties, scenes["properties"]) for answer in answers]
        return torch.stack(errors).mean()

    def answers(self, model: SetPredictor, features: Tensor) -> list[SetPredictorOutput]:
        """What is compared with the objects."""
        return model.every_iteration(features) if self.intermediate_losses else [model.group(features)]

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

    def predict(self, model: SetPredictor, images: Tensor, indices: Tensor) -> SetPredictorOutput:
        """The model's answer for held-out images, with test iterations, from start noise fixed by the
        index."""
        noise = torch.from_numpy(start_noise(np.asarray(indices), model.num_slots, model.slot_dim))
        return model(images, iterations=self.test_iterations, noise=noise.to(images.device))

    def preview(self, model: SetPredictor, scenes: Scenes) -> Image.Image:
        image = scenes["image"][:1]
        return figures.attention_figure(image[0], self.predict(model, image, torch.arange(1)).attention[0])

    def figures(self, model: SetPredictor, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        image = scenes["image"][:1]
        attention = self.predict(model, image, torch.arange(1)).attention[0]
        frames = animation.attention_frames(image[0], attention)
        return {"attention": self.preview(model, scenes), "attention-animated": frames}

    def prepare_for_test(self, model: SetPredictor) -> SetPredictor:
        model.grouping.iterations, model.fit = self.test_iterations, fit_of(self.data)
        return model.eval()

    @property
    def protocol(self) -> str:
        return (
            f"{self.test_scenes} {self.data} scenes of {self.min_objects} to {self.max_objects} objects held "
            f"out, {self.test_iterations} iterations, {self.num_slots} slots; average precision over all "
            "images together, size, material, shape and colour right and the position within any distance, "
            "1, 0.5, 0.25, 0.125"
        )


def flipped(
    images: Float[Tensor, "batch 3 height width"],
    properties: Float[Tensor, "batch objects 19"],
    chosen: Bool[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch objects 19"]]:
    """`chosen` scenes as in a mirror: left and right of the image change places, and positions with them.

    Positions are mirrored across the vertical plane through CLEVR's camera and what it looks at. The camera
    of a scene stands a little beside that (`arrangement.CAMERA_JITTER`), to either side alike, so a
    mirrored scene is as likely as its original, but for the lamps. The few positions that come to lie beyond
    CLEVR's range are moved to its border.

    Example:
        >>> images, properties = torch.rand(1, 3, 8, 8), torch.zeros(1, 10, 19)
        >>> properties[0, 0, [0, 1, 2, 18]] = torch.tensor([0.9, 0.5, 0.6, 1.0])  # x = 2.4, y = 0
        >>> flipped(images, properties, torch.tensor([True]))[1][0, 0, :3]
        tensor([0.5554, 0.1039, 0.6000])
    """
    toward = torch.tensor(CAMERA[:2], dtype=torch.float64)
    toward = toward / toward.norm()
    reflection = (2 * toward[:, None] * toward - torch.eye(2)).to(properties)
    places = ((properties[..., :2] - 0.5) @ reflection + 0.5).clamp(0, 1) * properties[..., 18:]
    turned = torch.cat([places, properties[..., 2:]], dim=-1)
    chosen = chosen.to(images.device)[:, None, None]
    return torch.where(chosen[..., None], images.flip(-1), images), torch.where(chosen, turned, properties)


def projected_positions(properties: Float[Tensor, "batch objects 19"]) -> Float[Tensor, "batch objects 2"]:
    """Where CLEVR's camera, without its jitter, sees positions in the paper's cut of the image.

    Returns: across and down, -1 to 1 from border to border.

    Example:
        >>> projected_positions(torch.full((1, 1, 19), 0.5))[..., 1]  # what the camera looks at
        tensor([[-0.0521]])
    """
    camera = np.array(CAMERA)
    axes = torch.from_numpy(camera_axes(camera)).to(properties)
    points = properties[..., :3] * (2 * EXTENT) - EXTENT - torch.from_numpy(camera).to(properties)
    right, up, depth = (points @ axes.T).unbind(dim=-1)
    column = FRAME_WIDTH / 2 + right / depth / TANGENT_PER_PIXEL - CROP_CENTRE[1]
    row = FRAME_HEIGHT / 2 - up / depth / TANGENT_PER_PIXEL - CROP_CENTRE[0]
    return torch.stack([column, row], dim=-1) / (CROP_SIDE / 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastSetPrediction(SetPrediction):
    """Coarser features, learned slots, and more to learn from each scene."""

    horizontal_flip: bool = True
    """Whether half of the images, drawn by lot, are mirrored (`flipped`)."""
    position_loss: float = 0.2
    """Weight of the cross entropy of what features say of the object that is seen there (`projected_positions`); 0: none.
    For images in the paper's cut, as `clevr-like` has them."""
    attention_loss: float = 0.02
    """Weight of the cross entropy of attention where a slot's object is seen: who should look there; 0:
    none. For images in the same cut."""
    coordinate_scale: float = 2.0
    """What coordinates are multiplied with before sets are compared (paper: 1)."""
    loss_on_padding: bool = False
    """Whether slots that stand for nothing must predict 0 for every property (the paper), or for the
    real-object flag alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data == "clevr" and (self.position_loss or self.attention_loss):
            raise ValueError(
                f"`position_loss` (={self.position_loss}) and `attention_loss` (={self.attention_loss}) need the "
                "paper's cut, and `data` 'clevr' comes uncut; set --position-loss 0 --attention-loss 0"
            )

    def build_model(self) -> SetPredictor:
        return set_predictor.fast_clevr(self.num_slots, self.resolution, self.position_loss > 0)

    def loss(self, model: SetPredictor, scenes: Scenes, step: int) -> Tensor:
        images, properties = scenes["image"], scenes["properties"]
        if self.horizontal_flip:
            images, properties = flipped(images, properties, per_image(torch.rand, len(images)) < 0.5)
        features = model.encode(images)
        errors = [self.error(answer, properties) for answer in self.answers(model, features)]
        error = torch.stack(errors).mean()
        if self.position_loss:
            error = error + self.position_loss * self.position_error(model, features, properties)
        return error

    def error(self, answer: SetPredictorOutput, properties: Tensor) -> Tensor:
        """As `losses.matching_loss`, with what counts how much, and the attention of matched slots."""
        is_real = properties[..., 18:]
        weight = torch.ones_like(properties) if self.loss_on_padding else is_real.repeat(1, 1, 19)
        weight[..., :3] *= self.coordinate_scale
        weight[..., 18] = 1
        predicted, target = torch.broadcast_tensors(
            answer.properties[:, :, None] * weight[:, None], (properties * weight)[:, None]
        )
        cost = F.huber_loss(predicted, target, reduction="none").mean(dim=-1)
        slots, objects = assign(cost)
        batch = torch.arange(len(cost), device=cost.device)[:, None]
        error = cost[batch, slots, objects].sum(dim=1).mean()
        if self.attention_loss:
            held = sample_at(answer.attention[:, -1], projected_positions(properties))[batch, objects, slots]
            entropy = -(held + 1e-4).log() * is_real[batch, objects, 0]
            error = error + self.attention_loss * entropy.sum(dim=1).mean()
        return error

    def position_error(self, model: SetPredictor, features: Tensor, properties: Tensor) -> Tensor:
        """Cross entropy, mean over properties, sum over a scene's objects, mean over batch."""
        answers = model.read_features(features, projected_positions(properties)).clamp(1e-6, 1 - 1e-6)
        with torch.autocast(features.device.type, enabled=False):  # on a GPU it refuses to run under it
            entropy = F.binary_cross_entropy(answers, properties, reduction="none").mean(dim=-1)
        return (entropy * properties[..., 18]).sum(dim=1).mean()


set_clevr_like = FastSetPrediction(
    name="set-clevr-like",
    description="What is in CLEVR-like scenes rendered here: --data-path FOLDER; half an hour on a CPU",
    expected="AP 0.853 ± 0.009, within distance 1: 0.813; uses the true camera (5 seeds, results/)",
    data="clevr-like",
    intermediate_losses=True,
    steps=11_000,
    **FAST | {"evaluate_every": 1000, "validation_scenes": 400, "test_scenes": 800},
)
"""Rendered scenes, on two CPU cores: `objecthood train set-clevr-like --data-path FOLDER`."""

set_clevr10_paper = SetPrediction(
    name="set-clevr10-paper",
    description="The paper's set prediction on CLEVR: --data-path CLEVR_v1.0; for a GPU",
    data="clevr",
    batch_size=512,
    steps=150_000,
    warmup_steps=1000,
    decay_half_life=50_000,
    evaluate_every=5000,
)
"""The paper's model and schedule: `objecthood train set-clevr10-paper --data-path CLEVR_v1.0`, for a GPU."""
