"""Moving objects in real video: slot attention on optical flow, without labels.

Yang et al. 2021, "Self-supervised Video Object Segmentation by Motion Grouping" (arXiv 2104.07658): two slots
reconstruct the motion field of a frame, with losses for agreement of the masks of two fields of one frame and
for low mask entropy. Differences from the paper: three slots, for a second motion; flow by OpenCV's DIS
instead of a learned one, camera motion removed, averaged along paths; fields to the adjacent frames only;
encoder and decoder of `models.autoencoder.fast_sprites`; 64 x 64 pixels; minutes of training on one core.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from objecthood import metrics
from objecthood.data.randomness import start_noise
from objecthood.data.scene import Dataset, Scenes
from objecthood.models import autoencoder
from objecthood.models.autoencoder import AutoencoderOutput as Scene
from objecthood.models.autoencoder import SlotAutoencoder
from objecthood.motion import fields as motion_fields
from objecthood.motion import masks as motion_masks
from objecthood.motion.fields import MotionFields, SequenceFields
from objecthood.recipes.base import FAST, Recipe
from objecthood.visualize import video


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionGrouping(Recipe):
    """Three slots on the motion fields of a copy of DAVIS-2016."""

    data: str = "davis-2016"
    data_path: str = ""
    """Folder of DAVIS-2016, with JPEGImages and Annotations."""
    fold: int = 0
    """Index of the held-out fold of sequences, of `num_folds`."""
    num_folds: int = 3
    resolution: int = 64
    num_slots: int = 3
    test_iterations: int = 3
    consistency: float = 0.1
    """Weight of the squared difference of the masks of two fields of one frame."""
    entropy: float = 0.01
    """Weight of the mask entropy per pixel."""

    main_score = "j"
    minimums = Recipe.minimums | {"resolution": 8, "num_slots": 2, "test_iterations": 1, "num_folds": 2}

    def build_model(self) -> SlotAutoencoder:
        model = autoencoder.fast_sprites(self.num_slots, self.resolution, spatial_bias=0, merge_penalty=0)
        model.modality = "motion"
        return model

    def dataset(self, split: str) -> Dataset:
        if not self.data_path:
            raise ValueError(
                "recipe data 'davis-2016' needs `data_path` (=''): name its folder, --data-path DAVIS"
            )
        return MotionFields(
            self.data_path, split, fold=self.fold, num_folds=self.num_folds, resolution=self.resolution
        )

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        fields = scenes["image"]
        if step % 2:  # horizontal flip, which negates motion across
            fields = fields.flip(-1)
            fields = torch.cat([1 - fields[:, :, :1], fields[:, :, 1:]], dim=2)
        output = model(fields.flatten(0, 1))
        error = 4 * (output.reconstruction - fields.flatten(0, 1)).square().mean()
        one, other = output.masks.unflatten(0, fields.shape[:2]).unbind(1)
        # Minimum over permutations: the two fields may have different slot orders.
        orders = itertools.permutations(range(self.num_slots))
        differences = torch.stack([(one - other[:, order]).square().mean((1, 2, 3)) for order in orders])
        entropy = -(output.masks * (output.masks + 1e-6).log()).sum(dim=1).mean()
        return error + self.consistency * differences.amin(dim=0).mean() + self.entropy * entropy

    def scores(self, model: SlotAutoencoder, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        fields = scenes["image"]
        output = self.discover(model, fields.flatten(0, 1))
        moving = motion_masks.agreed(motion_masks.moving_mask(output.masks).unflatten(0, fields.shape[:2]))
        error = 4 * (output.reconstruction - fields.flatten(0, 1)).square().mean(dim=(1, 2, 3))
        overlap = metrics.region_similarity(scenes["masks"][:, 0] > 0, moving > 0.5)
        return {"j": overlap, "mse": error.unflatten(0, fields.shape[:2]).mean(dim=1).double()}

    def discover(self, model: SlotAutoencoder, fields: Tensor) -> Scene:
        """The model's output for motion images, with test iterations and fixed noise."""
        noise = start_noise(np.zeros(len(fields), np.int64), model.num_slots, model.slot_dim)
        return model(fields, iterations=self.test_iterations, noise=noise.to(fields.device))

    def objects(
        self, model: SlotAutoencoder, fields: SequenceFields, pictures: Tensor, colours: float = 0.6
    ) -> Tensor:
        """Soft masks [frames, rows, columns] of the moving objects of a sequence, on its grid.

        Fast regions near the main slot, refined with the flow and the images `pictures` [frames, 3, rows,
        columns].
        """
        _, main = self.moving(model, fields)
        fast = motion_masks.fast_near(main, fields.speed, fields.flow)
        return motion_masks.finished(fast, fields.flow, pictures, colours)

    def moving(self, model: SlotAutoencoder, fields: SequenceFields) -> tuple[Tensor, Tensor]:
        """Masks [frames, directions, rows, columns] of a sequence, on its grid: all slots but the background,
        and the main slot."""
        steady, speed = fields.steady.flatten(0, 1), fields.speed.flatten(0, 1)
        images = motion_fields.shown(steady, speed, self.resolution)
        outputs = [self.discover(model, part) for part in images.split(64)]
        masks = torch.cat([output.masks for output in outputs])
        scale = motion_fields.largest_speed(speed, self.resolution)
        motion = motion_fields.scaled(steady, speed[:, None], scale)
        appearance = torch.cat([output.appearance for output in outputs])
        sharp = motion_masks.sharpened(masks, appearance, motion)
        rows = torch.arange(len(masks))
        background, main = motion_masks.ground_slot(masks), motion_masks.main_slot(masks)
        shape = fields.speed.shape[:2]
        return (1 - sharp[rows, background]).unflatten(0, shape), sharp[rows, main].unflatten(0, shape)

    def preview(self, model: SlotAutoencoder, scenes: Scenes) -> Image.Image:
        fields = scenes["image"]
        masks = self.discover(model, fields.flatten(0, 1)).masks.unflatten(0, fields.shape[:2])
        return video.clips_figure(fields, masks)

    def figures(self, model: SlotAutoencoder, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        return {"fields": self.preview(model, scenes)}

    @property
    def protocol(self) -> str:
        return (
            f"frames of DAVIS-2016 sequences held out of training (fold {self.fold} of {self.num_folds}, at "
            f"most {self.test_scenes}), DIS flow, {self.num_slots} slots, all but the one with most of the "
            f"border; j: intersection over union at {self.resolution} x {self.resolution} pixels, mean over "
            "frames (not the benchmark's protocol: runs/experiments/davis.py has that)"
        )


motion_grouping = MotionGrouping(
    name="motion-grouping",
    description="Moving objects in DAVIS-2016 from optical flow: --data-path DAVIS; a minute on one core",
    steps=300,
    **FAST
    | {"batch_size": 6, "warmup_steps": 50, "ema_decay": 0.99, "evaluate_every": 100, "test_scenes": 400},
)
"""Optical flow of real video: `objecthood train motion-grouping --data-path DAVIS`."""
