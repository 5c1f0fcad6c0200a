"""What experiments on clips share: clips made here, and how what is found in them is counted and shown."""

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
"""Scores that are shares of all there were in all clips, not means over clips: of what, and of how many."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnClips(Recipe):
    """An experiment on clips made here; a subclass has `discover`, which gives a scene with `masks`."""

    data: str
    """"moving-sprites" or "camouflage"."""
    background: Backdrop = "grey"
    """Of moving sprites: "grey", "coloured" or "textured"."""
    camera: float = 0.0
    """The camera's greatest speed, pixels per frame (camouflage: whether it moves at all)."""
    resolution: int = 64
    num_slots: int
    test_frames: int = 12
    """Of a clip that is scored."""
    test_iterations: int = 10
    """Of the first frame; later ones take `later_iterations` where slots are handed on."""
    later_iterations: int = 2
    modality: Modality = "frame"
    """"frame", or "motion", found by matching frames."""
    spatial_bias: float = 1.0
    """Weight of each slot's Gaussian between iterations; 0: none."""

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
        """The model's view of held-out clips, with test iterations, from start noise fixed by the index."""
        raise NotImplementedError

    def dataset(self, split: str) -> Dataset:
        seed = self.seed if split == "train" else 0  # the test clips are the same for every seed
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

    def model_input(self, scenes: Scenes) -> Tensor:
        return to_modality(scenes["image"], self.modality)

    def summarize(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Means over clips; `SHARES` of what there was in all of them."""
        shares = {}
        for name, parts in SHARES.items():
            if parts[0] in values:
                part, all_there_were = (values.pop(key).sum().item() for key in parts)
                shares[name] = part / max(all_there_were, 1)
        return super().summarize(values) | shares

    def preview(self, model: Model, scenes: Scenes) -> Image.Image:
        scene = self.discover(model, scenes, torch.arange(len(scenes["image"])))
        return video.clips_figure(scenes["image"][:4], scene.masks[:4])

    def figures(self, model: Model, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        frames = self.dataset("validation")[range(4)]
        scene = self.discover(model, frames, torch.arange(4))
        tracks = motion.track(frames["image"], scene.masks)
        return {
            "clips": video.clips_figure(frames["image"], scene.masks),
            "clips-animated": video.clips_frames(frames["image"], scene.masks, tracks),
        }

    def prepare_for_test(self, model: Model) -> Model:
        model.grouping.iterations = self.test_iterations
        return model.eval()
