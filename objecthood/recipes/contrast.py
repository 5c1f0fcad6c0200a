"""Contrastive object discovery in video (Löwe et al. 2020, arXiv 2011.10287), without a decoder.

A step uses two frames of each clip, `lag` frames apart, with random brightness: the slots of the first
predict those of the second as a set, with other clips as negatives.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor

from objecthood import losses
from objecthood.data.scene import Scenes
from objecthood.models import set_contrast
from objecthood.models.set_contrast import ContrastOutput, SetContrast
from objecthood.recipes.base import FAST
from objecthood.recipes.clips import OnClips

QUICK = {
    "batch_size": 32,
    "learning_rate": 2e-3,
    "muon_learning_rate": 0.02,
    "warmup_steps": 30,
    "ema_decay": 0.98,
}
CONTRASTS = {
    "nearest": losses.nearest_contrast,
    "set": losses.set_contrast,
    "single": losses.slot_infonce,
}
RECONSTRUCTION = "reconstruction"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contrast(OnClips):
    """A contrastive model on generated clips."""

    contrast: str = "nearest"
    """Loss: `losses.nearest_contrast` ("nearest"), `losses.set_contrast` ("set") or `losses.slot_infonce`
    ("single"); or "reconstruction", the control, which decodes the frames."""
    temperature: float = 0.03
    lag: int = 4
    """Frames between the first and the predicted frame."""
    brightness_jitter: float = 0.2
    """Maximum random change of a frame's brightness, in [0, 1] units; 0: none."""
    merge_penalty: float = 6.0
    """Largest reduction of the attention logits of duplicate slots; 0: none."""

    main_score = "attention_fg_ari"
    minimums = OnClips.minimums | {"batch_size": 2, "lag": 1}
    choices: ClassVar[dict[str, Any]] = {"contrast": (*CONTRASTS, RECONSTRUCTION)}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise ValueError(f"`temperature` (={self.temperature}) must be above 0")

    def build_model(self) -> SetContrast:
        return set_contrast.moving_sprites(
            self.num_slots,
            self.resolution,
            self.spatial_bias,
            self.merge_penalty,
            True,
            self.later_iterations,
            self.modality,
            self.contrast == RECONSTRUCTION,
        )

    @property
    def train_frames(self) -> int:
        return self.lag + 1 + (self.modality == "motion")

    def loss(self, model: SetContrast, scenes: Scenes, step: int) -> Tensor:
        inputs = self.pair(model, scenes["image"])
        output = model.group(inputs)
        if self.contrast == RECONSTRUCTION:
            return 4 * (model.reconstruct(output) - inputs).square().mean()
        predicted, found = model.project(output.predicted[:, 0]), model.project(output.slots[:, 1])
        return CONTRASTS[self.contrast](predicted, found, self.temperature)

    def pair(self, model: SetContrast, frames: Tensor) -> Tensor:
        """Model input of the first frame and of that `lag` later [batch, 2, 3, height, width]."""
        if self.modality == "motion":  # independent of brightness
            pairs = (frames[:, first : first + 2] for first in (0, self.lag))
            return torch.stack([model.to_modality(pair)[:, 0] for pair in pairs], dim=1)
        frames = frames[:, [0, self.lag]]
        change = torch.rand(*frames.shape[:2], 1, 1, 1, device=frames.device) * 2 - 1
        return (frames + self.brightness_jitter * change).clamp(0, 1)

    def scores(self, model: SetContrast, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        return self.mask_scores(scenes, self.discover(model, scenes, indices).masks)

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        """As in `OnClips`; per-frame scores are named after attention, from which masks are taken."""
        scores = super().mask_scores(scenes, masks)
        return {name.replace("frame_", "attention_"): value for name, value in scores.items()}

    def discover(self, model: SetContrast, scenes: Scenes, indices: Tensor) -> ContrastOutput:
        """The model's output for held-out clips, with test iterations and propagated slots."""
        return model(scenes["image"], iterations=self.test_iterations, propagate_slots=True)

    @property
    def protocol(self) -> str:
        modality = "frames" if self.modality == "frame" else "motion by block matching"
        return (
            f"{self.test_scenes} {self.data} clips of {self.test_frames} frames held out, input {modality}, "
            f"{self.test_iterations} iterations in the first frame, {self.later_iterations} in later ones, "
            f"slots propagated, {self.num_slots} slots, argmax of upsampled attention; attention_fg_ari, "
            "attention_ari: adjusted Rand index per frame, without and with true background pixels; "
            "video_fg_ari, video_ari: over all frames of a clip together; id_switch_rate: share of "
            "frames in which an object is found by another slot than the last time (overlap at least 0.5, "
            "assigned one to one); mean over clips"
        )


moving_sprites_contrast = Contrast(
    name="moving-sprites-contrast",
    description="Contrastive sets of slots on moving sprites, without a decoder; a minute on one core",
    data="moving-sprites",
    num_slots=6,
    steps=100,
    **FAST | QUICK,
    evaluate_every=50,
    validation_scenes=16,
    test_scenes=80,
)
"""Löwe et al. 2020 on moving sprites: `objecthood train moving-sprites-contrast`; `--contrast single` is
slot-wise InfoNCE."""

camouflage_contrast = Contrast(
    name="camouflage-contrast",
    description="Contrastive sets of slots on random-dot motion, without a decoder; minutes on one core",
    data="camouflage",
    modality="motion",
    num_slots=4,
    steps=100,
    **FAST | QUICK,
    evaluate_every=50,
    validation_scenes=16,
    test_scenes=80,
)
"""Random-dot motion: `objecthood train camouflage-contrast`."""
