"""Objects by contrast (Löwe et al. 2020, arXiv 2011.10287): clips are told apart, nothing is painted.

A step sees the first and the last frame of each clip, lighter or darker by chance: the slots of the first
must tell the last one's, as a set, from those of other clips. Objects stay what they are in the meantime,
while what a part of the picture shows does not.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from objecthood import losses
from objecthood.data.scene import Scenes
from objecthood.models import set_contrast
from objecthood.models.set_contrast import ContrastScene, SetContrast
from objecthood.recipes.base import FAST
from objecthood.recipes.clips import OnClips

QUICK = {
    "batch_size": 32,
    "learning_rate": 2e-3,
    "matrix_learning_rate": 0.02,
    "warmup_steps": 30,
    "average": 0.98,
}
CONTRASTS = {
    "nearest": losses.nearest_contrast,
    "set": losses.set_contrast,
    "single": losses.single_slot_contrast,
}
RECONSTRUCTION = "reconstruction"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast(OnClips):
    """A contrast model on clips made here."""

    contrast: str = "nearest"
    """What is contrasted: sets of slots, by each one's "nearest" in the other or by their mean ("set"), or
    each "single" slot; or "reconstruction", the control: the same model learns by decoding its frames."""
    temperature: float = 0.03
    lag: int = 4
    """Frames from the one seen to the one that it must tell."""
    light: float = 0.2
    """A frame is lighter or darker by up to this much; 0: as it is."""
    repulsion: float = 6.0
    """What a slot loses that shares one thing with a heavier one; 0: none."""

    main_score = "attention_fg_ari"
    least = OnClips.least | {"batch_size": 2, "lag": 1}
    choices: ClassVar[dict[str, Any]] = {"contrast": (*CONTRASTS, RECONSTRUCTION)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"`temperature` (={self.temperature}) must be above 0")

    def build_model(self) -> SetContrast:
        return set_contrast.moving_sprites(
            self.num_slots,
            self.resolution,
            self.compactness,
            self.repulsion,
            True,
            self.later_iterations,
            self.sees,
            self.contrast == RECONSTRUCTION,
        )

    @property
    def train_frames(self) -> int:
        return self.lag + 1 + (self.sees == "motion")

    def loss(self, model: SetContrast, scenes: Scenes, step: int) -> Tensor:
        seen = self.pair(model, scenes["image"])
        scene = model.group(seen)
        if self.contrast == RECONSTRUCTION:
            return 4 * (model.reconstruct(scene) - seen).square().mean()
        said, found = model.said(scene.predicted[:, 0]), model.said(scene.slots[:, 1])
        return CONTRASTS[self.contrast](said, found, self.temperature)

    def pair(self, model: SetContrast, frames: Tensor) -> Tensor:
        """What is seen of the first frame and of that `lag` later [batch, 2, 3, height, width]."""
        if self.sees == "motion":  # light is no part of it
            pairs = (frames[:, first : first + 2] for first in (0, self.lag))
            return torch.stack([model.look(pair)[:, 0] for pair in pairs], dim=1)
        frames = frames[:, [0, self.lag]]
        change = torch.rand(*frames.shape[:2], 1, 1, 1, device=frames.device) * 2 - 1
        return (frames + self.light * change).clamp(0, 1)

    def scores(self, model: SetContrast, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        return self.mask_scores(scenes, self.discover(model, scenes, indices).masks)

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        """As of all clips; the masks here are attention, and its scores in single frames are named so."""
        scores = super().mask_scores(scenes, masks)
        return {name.replace("frame_", "attention_"): value for name, value in scores.items()}

    def discover(self, model: SetContrast, scenes: Scenes, indices: Tensor) -> ContrastScene:
        """The model's view of held-out clips, with test iterations."""
        return model(scenes["image"], iterations=self.test_iterations, handed_on=True)

    @property
    def protocol(self) -> str:
        sight = "frames" if self.sees == "frame" else "motion found by matching"
        return (
            f"{self.test_scenes} {self.data} clips of {self.test_frames} frames held out, {sight} seen, "
            f"{self.test_iterations} iterations in the first frame, {self.later_iterations} in later ones, "
            f"slots handed on, {self.num_slots} slots, argmax of attention, enlarged; attention_fg_ari, "
            "attention_ari: adjusted Rand index of every frame for itself, without and with true background "
            "pixels; video_fg_ari, video_ari: over all frames of a clip together; id_switch_rate: share of "
            "frames in which an object is found by another slot than the last time (overlap at least 0.5, "
            "assigned one to one); mean over clips"
        )


moving_sprites_contrast = Contrast(
    name="moving-sprites-contrast",
    description="Moving sprites told apart as sets of slots, nothing painted; a minute of one core",
    data="moving-sprites",
    num_slots=6,
    steps=100,
    **FAST | QUICK,
    evaluate_every=50,
    validation_scenes=16,
    test_scenes=80,
)
"""Löwe et al. 2020 on sprites that move: `objecthood train moving-sprites-contrast`; `--contrast single` is
the contrast of single slots."""

camouflage_contrast = Contrast(
    name="camouflage-contrast",
    description="Camouflaged things told apart by their motion as sets of slots, nothing painted; minutes",
    data="camouflage",
    sees="motion",
    num_slots=4,
    steps=100,
    **FAST | QUICK,
    evaluate_every=50,
    validation_scenes=16,
    test_scenes=80,
)
"""The same on motion alone: `objecthood train camouflage-contrast`."""
