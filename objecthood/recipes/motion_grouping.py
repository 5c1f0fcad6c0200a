"""What moves in real video: slot attention on optical flow, without labels.

Yang et al. 2021, "Self-supervised Video Object Segmentation by Motion Grouping" (arXiv 2104.07658): two slots
reconstruct the motion field of a frame; masks found from two fields of one frame must agree, and be sharp.
Differences from the paper: three slots, so that what moves otherwise than the main thing has its own; flow by
OpenCV's DIS in place of a learned one, the camera's motion taken off before, averaged along paths; fields of
gap one in both directions, no others; encoder and decoder of `models.autoencoder`'s fast variant, masks
guided by attention; 64 x 64 pixels; minutes of training on a processor core.
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
    """A copy of DAVIS-2016: the folder with JPEGImages and Annotations."""
    fold: int = 0
    """Which of `num_folds` sets of sequences is held out."""
    num_folds: int = 3
    resolution: int = 64
    num_slots: int = 3
    test_iterations: int = 3
    consistency: float = 0.1
    """Weight of the squared difference of the masks that two fields of one frame give."""
    entropy: float = 0.01
    """Weight of the entropy of masks, per pixel."""

    main_score = "j"
    minimums = Recipe.minimums | {"resolution": 8, "num_slots": 2, "test_iterations": 1, "num_folds": 2}

    def build_model(self) -> SlotAutoencoder:
        model = autoencoder.fast_sprites(self.num_slots, self.resolution, spatial_bias=0, merge_penalty=0)
        model.modality = "motion"
        return model

    def dataset(self, split: str) -> Dataset:
        if not self.data_path:
            raise ValueError(
                "recipe data 'davis-2016' needs `data_path` (=''): name a copy, --data-path DAVIS"
            )
        return MotionFields(
            self.data_path, split, fold=self.fold, num_folds=self.num_folds, resolution=self.resolution
        )

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        fields = scenes["image"]
        if step % 2:  # mirrored, motion across as well
            fields = fields.flip(-1)
            fields = torch.cat([1 - fields[:, :, :1], fields[:, :, 1:]], dim=2)
        scene = model(fields.flatten(0, 1))
        error = 4 * (scene.reconstruction - fields.flatten(0, 1)).square().mean()
        one, other = scene.masks.unflatten(0, fields.shape[:2]).unbind(1)
        # The slots of the two fields need not come in one order.
        orders = itertools.permutations(range(self.num_slots))
        apart = torch.stack([(one - other[:, order]).square().mean((1, 2, 3)) for order in orders])
        entropy = -(scene.masks * (scene.masks + 1e-6).log()).sum(dim=1).mean()
        return error + self.consistency * apart.amin(dim=0).mean() + self.entropy * entropy

    def scores(self, model: SlotAutoencoder, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        fields = scenes["image"]
        scene = self.discover(model, fields.flatten(0, 1))
        moving = motion_masks.agreed(motion_masks.moving_mask(scene.masks).unflatten(0, fields.shape[:2]))
        error = 4 * (scene.reconstruction - fields.flatten(0, 1)).square().mean(dim=(1, 2, 3))
        overlap = metrics.region_similarity(scenes["masks"][:, 0] > 0, moving > 0.5)
        return {"j": overlap, "mse": error.unflatten(0, fields.shape[:2]).mean(dim=1).double()}

    def discover(self, model: SlotAutoencoder, fields: Tensor) -> Scene:
        """The model's view of motion images, with test iterations; learned slots need no noise."""
        noise = torch.from_numpy(
            start_noise(np.zeros(len(fields), np.int64), model.num_slots, model.slot_dim)
        )
        return model(fields, iterations=self.test_iterations, noise=noise.to(fields.device))

    def objects(
        self, model: SlotAutoencoder, fields: SequenceFields, pictures: Tensor, colours: float = 0.6
    ) -> Tensor:
        """What moves in a sequence, soft masks [frames, rows, columns] of its grid, on which `images`
        [frames, 3, rows, columns] are as well: what is fast where the main slot is, finished."""
        _, main = self.moving(model, fields)
        fast = motion_masks.fast_near(main, fields.speed, fields.flow)
        return motion_masks.finished(fast, fields.flow, pictures, colours)

    def moving(self, model: SlotAutoencoder, fields: SequenceFields) -> tuple[Tensor, Tensor]:
        """Masks [frames, directions, rows, columns] of a sequence, on its grid: all but the ground, and the
        main slot alone."""
        steady, speed = fields.steady.flatten(0, 1), fields.speed.flatten(0, 1)
        pictures = motion_fields.shown(steady, speed, self.resolution)
        seen = [self.discover(model, part) for part in pictures.split(64)]
        masks = torch.cat([scene.masks for scene in seen])
        scale = motion_fields.largest_speed(speed, self.resolution)
        motion = motion_fields.scaled(steady, speed[:, None], scale)
        wide = motion_masks.sharpened(masks, torch.cat([scene.appearance for scene in seen]), motion)
        rows = torch.arange(len(masks))
        ground, main = motion_masks.ground_slot(masks), motion_masks.main_slot(masks)
        shape = fields.speed.shape[:2]
        return (1 - wide[rows, ground]).unflatten(0, shape), wide[rows, main].unflatten(0, shape)

    def preview(self, model: SlotAutoencoder, scenes: Scenes) -> Image.Image:
        fields = scenes["image"]
        masks = self.discover(model, fields.flatten(0, 1)).masks.unflatten(0, fields.shape[:2])
        return video.clips_figure(fields, masks)

    def figures(self, model: SlotAutoencoder, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        return {"fields": self.preview(model, scenes)}

    def prepare_for_test(self, model: SlotAutoencoder) -> SlotAutoencoder:
        model.grouping.iterations = self.test_iterations
        return model.eval()

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
    description="What moves in DAVIS-2016, from optical flow alone: --data-path DAVIS; a minute on one core",
    steps=300,
    **FAST
    | {"batch_size": 6, "warmup_steps": 50, "ema_decay": 0.99, "evaluate_every": 100, "test_scenes": 400},
)
"""Slots on the motion of real video: `objecthood train motion-grouping --data-path DAVIS`."""
