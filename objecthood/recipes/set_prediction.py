"""Set prediction (Locatello et al. 2020, section 4.2): object properties, scored by average precision.

The `-paper` recipe has the paper's model, batch size and schedule, at 128 x 128. The fast one, for two CPU
cores, is a variant: a smaller encoder, learned slots, Muon, EMA weights, losses on every iteration,
horizontal flips, and an auxiliary loss on features at object positions.
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
from objecthood.recipes.sources import fit_of, open_dataset
from objecthood.visualize import animation, figures

THRESHOLDS = (math.inf, 1.0, 0.5, 0.25, 0.125)
"""Distance thresholds of average precision in CLEVR's units (Locatello et al. 2020, figure 5)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetPrediction(Recipe):
    """The paper's model and training."""

    data: str
    """"clevr-like" (rendered), "clevr" or "multi-object" (published), all in `data_path`."""
    data_path: str = ""
    """Folder or file of the scenes."""
    min_objects: int = 3
    max_objects: int = 10
    resolution: int = 128
    num_slots: int = 10
    test_iterations: int = 3
    intermediate_losses: bool = False
    """Whether the loss includes the slots of every iteration instead of the last only."""

    main_score = "ap"
    minimums = Recipe.minimums | {"resolution": 16, "num_slots": 1, "test_iterations": 1}

    def build_model(self) -> SetPredictor:
        return set_predictor.clevr(self.num_slots, self.resolution)

    def dataset(self, split: str) -> Dataset:
        return open_dataset(self, split)

    def loss(self, model: SetPredictor, scenes: Scenes, step: int) -> Tensor:
        outputs = self.outputs(model, model.encode(scenes["image"]))
        errors = [losses.matching_loss(output.properties, scenes["properties"]) for output in outputs]
        return torch.stack(errors).mean()

    def outputs(self, model: SetPredictor, features: Tensor) -> list[SetPredictorOutput]:
        """Model outputs for the loss: of the last iteration, or of all."""
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
        """The model's output for held-out images, with test iterations and noise seeded by the index."""
        noise = start_noise(indices, model.num_slots, model.slot_dim)
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
        model.fit = fit_of(self.data)
        return super().prepare_for_test(model)

    @property
    def protocol(self) -> str:
        return (
            f"{self.test_scenes} {self.data} scenes of {self.min_objects} to {self.max_objects} objects held "
            f"out, {self.test_iterations} iterations, {self.num_slots} slots; average precision over all "
            "images together: size, material, shape and colour correct and the position within any distance, "
            "1, 0.5, 0.25, 0.125"
        )


def flipped(
    images: Float[Tensor, "batch 3 height width"],
    properties: Float[Tensor, "batch objects 19"],
    chosen: Bool[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch objects 19"]]:
    """Horizontal flips of the `chosen` scenes: images and positions are mirrored.

    Positions are mirrored across the vertical plane through CLEVR's camera and its target, without the camera
    jitter (`arrangement.CAMERA_JITTER`), which is symmetric. Positions beyond CLEVR's range are clamped.

    Example:
        >>> images, properties = torch.rand(1, 3, 8, 8), torch.zeros(1, 10, 19)
        >>> properties[0, 0, [0, 1, 2, 18]] = torch.tensor([0.9, 0.5, 0.6, 1.0])  # x = 2.4, y = 0
        >>> flipped(images, properties, torch.tensor([True]))[1][0, 0, :3]
        tensor([0.5554, 0.1039, 0.6000])
    """
    toward = torch.tensor(CAMERA[:2], dtype=torch.float64)
    toward = toward / toward.norm()
    reflection = (2 * toward[:, None] * toward - torch.eye(2)).to(properties)
    positions = ((properties[..., :2] - 0.5) @ reflection + 0.5).clamp(0, 1) * properties[..., 18:]
    mirrored = torch.cat([positions, properties[..., 2:]], dim=-1)
    chosen = chosen.to(images.device)[:, None, None]
    return torch.where(chosen[..., None], images.flip(-1), images), torch.where(chosen, mirrored, properties)


def projected_positions(properties: Float[Tensor, "batch objects 19"]) -> Float[Tensor, "batch objects 2"]:
    """Image coordinates of object positions for CLEVR's camera, without jitter, in the paper's crop: across
    and down, -1 to 1 from border to border.

    Example:
        >>> projected_positions(torch.full((1, 1, 19), 0.5))[..., 1]  # target of the camera
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
    """A fast variant: coarser features, learned slots, auxiliary losses and augmentation."""

    horizontal_flip: bool = True
    """Whether a random half of the images is flipped (`flipped`)."""
    position_loss: float = 0.2
    """Weight of the cross entropy of properties predicted from features at the objects' image coordinates
    (`projected_positions`); 0: none. Needs the paper's crop, as in `clevr-like`."""
    attention_loss: float = 0.02
    """Weight of the cross entropy of each matched slot's attention at its object; 0: none. Needs the paper's
    crop."""
    coordinate_scale: float = 2.0
    """Scale of coordinates in the matching loss (paper: 1)."""
    loss_on_padding: bool = False
    """Whether slots without an object must predict 0 for every property (the paper), or for the real-object
    flag alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data == "clevr" and (self.position_loss or self.attention_loss):
            raise ValueError(
                f"`position_loss` (={self.position_loss}) and `attention_loss` (={self.attention_loss}) need "
                "the paper's crop, which `data` 'clevr' lacks; set --position-loss 0 --attention-loss 0"
            )

    def build_model(self) -> SetPredictor:
        return set_predictor.fast_clevr(self.num_slots, self.resolution, self.position_loss > 0)

    def loss(self, model: SetPredictor, scenes: Scenes, step: int) -> Tensor:
        images, properties = scenes["image"], scenes["properties"]
        if self.horizontal_flip:
            images, properties = flipped(images, properties, per_image(torch.rand, len(images)) < 0.5)
        features = model.encode(images)
        errors = [self.error(output, properties) for output in self.outputs(model, features)]
        error = torch.stack(errors).mean()
        if self.position_loss:
            error = error + self.position_loss * self.position_error(model, features, properties)
        return error

    def error(self, output: SetPredictorOutput, properties: Tensor) -> Tensor:
        """`losses.matching_loss` with weighted properties, plus the attention loss of matched slots."""
        is_real = properties[..., 18:]
        weight = torch.ones_like(properties) if self.loss_on_padding else is_real.repeat(1, 1, 19)
        weight[..., :3] *= self.coordinate_scale
        weight[..., 18] = 1
        predicted, target = torch.broadcast_tensors(
            output.properties[:, :, None] * weight[:, None], (properties * weight)[:, None]
        )
        cost = F.huber_loss(predicted, target, reduction="none").mean(dim=-1)
        slots, objects = assign(cost)
        batch = torch.arange(len(cost), device=cost.device)[:, None]
        error = cost[batch, slots, objects].sum(dim=1).mean()
        if self.attention_loss:
            share = sample_at(output.attention[:, -1], projected_positions(properties))[batch, objects, slots]
            entropy = -(share + 1e-4).log() * is_real[batch, objects, 0]
            error = error + self.attention_loss * entropy.sum(dim=1).mean()
        return error

    def position_error(self, model: SetPredictor, features: Tensor, properties: Tensor) -> Tensor:
        """Cross entropy of features at object positions: mean over properties, sum over objects, mean over
        batch."""
        predicted = model.read_features(features, projected_positions(properties)).clamp(1e-6, 1 - 1e-6)
        with torch.autocast(features.device.type, enabled=False):  # not supported under autocast on a GPU
            entropy = F.binary_cross_entropy(predicted, properties, reduction="none").mean(dim=-1)
        return (entropy * properties[..., 18]).sum(dim=1).mean()


set_clevr_like = FastSetPrediction(
    name="set-clevr-like",
    description="Object properties in rendered CLEVR-like scenes: --data-path FOLDER; half an hour on a CPU",
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
    precision="float32",
    evaluate_every=5000,
)
"""The paper's model and schedule: `objecthood train set-clevr10-paper --data-path CLEVR_v1.0`, for a GPU."""
