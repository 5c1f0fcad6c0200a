"""Base classes of recipes on clips: data, scores and figures."""

from __future__ import annotations

import dataclasses

import torch
from PIL import Image
from torch import Tensor

from objecthood import metrics
from objecthood.data.generated.camouflage import Camouflage
from objecthood.data.generated.moving_sprites import Backdrop, MovingSprites
from objecthood.data.scene import Dataset, Scenes
from objecthood.motion import tracking as motion
from objecthood.nn.block_matching import Modality, to_modality
from objecthood.recipes.base import Model, Recipe
from objecthood.visualize import video

SHARES = {
    "id_switch_rate": ("id_switches", "id_chances"),
    "motion_accuracy": ("motion_right", "motion_judged"),
}
"""Scores that are ratios of sums over all clips, not means over clips: numerator and denominator."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipRecipe(Recipe):
    """A recipe on clips; subclasses define `discover`, whose output has `masks`."""

    data: str
    """"moving-sprites" or "camouflage", both generated."""
    background: Backdrop = "grey"
    """Background of moving sprites: "grey", "coloured" or "textured"."""
    camera: float = 0.0
    """Maximum speed of the camera in pixels per frame (camouflage: above 0, the camera moves)."""
    resolution: int = 64
    num_slots: int
    test_frames: int = 12
    """Frames of a test clip."""
    test_iterations: int = 10
    """Iterations in the first frame; later frames with propagated slots take `later_iterations`."""
    later_iterations: int = 2

    minimums = Recipe.minimums | {
        "resolution": 8,
        "num_slots": 1,
        "test_frames": 1,
        "test_iterations": 1,
        "later_iterations": 1,
    }

    @property
    def train_frames(self) -> int:
        """Frames of a training clip."""
        raise NotImplementedError

    def discover(self, model: Model, scenes: Scenes, indices: Tensor) -> Model:
        """The model's output for held-out clips, with test iterations and noise seeded by the index."""
        raise NotImplementedError

    def dataset(self, split: str) -> Dataset:
        seed = self.seed if split == "train" else 0  # test clips do not depend on the seed
        frames = self.train_frames if split == "train" else self.test_frames
        if self.data == "moving-sprites":
            return MovingSprites(
                split,
                seed,
                frames=frames,
                background=self.background,
                camera=self.camera,
                resolution=self.resolution,
            )
        if self.data == "camouflage":
            return Camouflage(split, seed, frames=frames, camera=self.camera > 0)
        raise ValueError(f"`data` (={self.data!r}) must be one of moving-sprites, camouflage")

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        truth = scenes["masks"]
        switches, chances = metrics.id_switches(truth, masks)
        return {
            "video_fg_ari": metrics.video_adjusted_rand_index(truth, masks, ignore_background=True),
            "video_ari": metrics.video_adjusted_rand_index(truth, masks, ignore_background=False),
            "frame_fg_ari": metrics.frame_adjusted_rand_index(truth, masks, ignore_background=True),
            "frame_ari": metrics.frame_adjusted_rand_index(truth, masks, ignore_background=False),
            "id_switches": switches,
            "id_chances": chances,
        }

    def summarize(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Means over clips, and the ratios of `SHARES`."""
        shares = {}
        for name, keys in SHARES.items():
            if keys[0] in values:
                numerator, denominator = (values.pop(key).sum().item() for key in keys)
                shares[name] = numerator / max(denominator, 1)
        return super().summarize(values) | shares

    def preview(self, model: Model, scenes: Scenes) -> Image.Image:
        output = self.discover(model, scenes, torch.arange(len(scenes["image"])))
        return video.clips_figure(scenes["image"][:4], output.masks[:4])

    def figures(self, model: Model, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        frames = self.dataset("validation")[range(4)]
        output = self.discover(model, frames, torch.arange(4))
        tracks = motion.track(frames["image"], output.masks)
        return {
            "clips": video.clips_figure(frames["image"], output.masks),
            "clips-animated": video.clips_frames(frames["image"], output.masks, tracks),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnClips(ClipRecipe):
    """A recipe on generated clips whose model learns its own features."""

    modality: Modality = "frame"
    """Input modality: "frame", or "motion" by block matching."""
    spatial_bias: float = 1.0
    """Weight of each slot's Gaussian in the attention logits; 0: none."""

    def model_input(self, scenes: Scenes) -> Tensor:
        return to_modality(scenes["image"], self.modality)
