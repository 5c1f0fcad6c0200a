"""Object discovery in video (SAVi, Kipf et al. 2022, arXiv 2111.12594).

Training has a warm-up on single frames, then uses whole clips, with the same number of frames per step. Test
clips are longer than training clips.

Differences in training and test from SAVi-S (released configuration `savi_conditional_small.py`); those of
the model are listed in `models.video`:

- Data: generated sprites, not MOVi. Training clips have 4 frames (SAVi: 6), test clips 12 (SAVi: 24).
- Target: the frame; with `target="flow"`, optical flow to the next frame as an image (SAVi: flow, to the
  previous frame if the data has it, in other colours). The error is a mean over pixels and channels in [-1,
  1] units (SAVi: a sum, in [0, 1] units).
- Initial slots: unconditional by default (SAVi: boxes). Absent objects have condition -1 (SAVi: 0).
- A single-frame warm-up (`single_frame_steps`) and a ramp of duplicate suppression (SAVi: none).
- Optimiser: 1000 steps of 16 frames, Muon for matrices and Adam at 1e-3, 200 steps of warm-up, gradients
  clipped to norm 1, EMA weights. SAVi: 100,000 steps of 64 clips, Adam at 2e-4, 2500 steps of warm-up,
  clipped to norm 0.05, no EMA. Both decay the learning rate by a cosine to zero.
- Test: 10 iterations in the first frame and 2 in later ones (SAVi: 1 in every frame, also in training).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from objecthood import losses, metrics
from objecthood.data.randomness import start_noise
from objecthood.data.scene import Scenes
from objecthood.models import video
from objecthood.models.video import Conditioning, SlotVideo, VideoOutput
from objecthood.motion import tracking as motion
from objecthood.nn import SLOT_MODULES, ResidualPredictor, TransformerPredictor
from objecthood.nn.attention_bias import grow_merge_penalty
from objecthood.nn.block_matching import motion_image
from objecthood.nn.decoders import enlarge
from objecthood.recipes.base import FAST
from objecthood.recipes.clips import OnClips

TARGETS = ("input", "next", "flow")
MIN_INPUTS = 6
"""Number of inputs below which a slot counts as empty in the slot contrast."""
PREDICTORS = ("transformer", "residual", "identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video(OnClips):
    """A video model on generated clips."""

    frames: int = 4
    """Frames of a training clip; 1: an image model, which treats frames independently in tests as well."""
    single_frame_steps: int = 500
    """Length of the warm-up on single frames, in steps."""
    predictor: str = "transformer"
    """Slot predictor: "transformer", "residual" or "identity"."""
    conditioning: Conditioning = "unconditional"
    """"unconditional", or "boxes" or "centres" of the first frame's true masks."""
    target: str = "input"
    """Reconstruction target: "input" (the model's input), "next" (that of the next frame) or "flow" (true
    optical flow)."""
    slot_module: str = "slot-attention"
    """Slot module, one of `nn.SLOT_MODULES`."""
    merge_penalty: float = 15.0
    """Largest reduction of the attention logits of duplicate slots; 0: none."""
    slot_contrast: float = 0.0
    """Weight of `losses.slot_slot_contrast` between adjacent frames, over non-empty slots; 0: none."""

    main_score = "video_fg_ari"
    minimums = OnClips.minimums | {"frames": 1, "single_frame_steps": 0}
    choices: ClassVar[dict[str, Any]] = {
        "target": TARGETS,
        "predictor": PREDICTORS,
        "slot_module": SLOT_MODULES,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.is_per_frame and (
            self.modality == "motion" or self.target == "next" or self.conditioning != "unconditional"
        ):
            raise ValueError(
                f"`frames` (={self.frames}) must be at least 2 for `modality` 'motion', `target` 'next', "
                "or conditioning"
            )

    @property
    def is_per_frame(self) -> bool:
        """Whether frames are independent."""
        return self.frames == 1

    def build_model(self) -> SlotVideo:
        predictors = {"transformer": TransformerPredictor, "residual": ResidualPredictor}
        kind = predictors.get(self.predictor)
        return video.moving_sprites(
            self.num_slots,
            self.resolution,
            self.spatial_bias,
            self.merge_penalty,
            True,
            self.later_iterations,
            nn.Identity() if kind is None else kind(64),
            self.conditioning,
            self.modality,
            self.target == "next",
            self.slot_module,
        )

    @property
    def train_frames(self) -> int:
        return self.frames

    def loss(self, model: SlotVideo, scenes: Scenes, step: int) -> Tensor:
        grow_merge_penalty(model.grouping.slot_attention.attention_bias, step, start=300)
        frames, masks, flow = scenes["image"], scenes["masks"], scenes["flow"]
        if self.is_single_frame(step):
            first = step % (self.frames if model.modality == "frame" else self.frames - 1)
            length = 1 if model.modality == "frame" else 2  # motion needs two frames
            frames, flow, masks = (part[:, first : first + length] for part in (frames, flow, masks))
        else:
            count = max(1, len(frames) // self.frames)
            frames, flow, masks = frames[:count], flow[:count], masks[:count]
        inputs = model.to_modality(frames)
        if self.is_single_frame(step):
            inputs, flow, masks = inputs[:, :1], flow[:, :1], masks[:, :1]
        target = flow_images(flow) if self.target == "flow" else inputs
        output = model.see(inputs, self.conditions(masks[:, 0]))
        reconstruction = output.reconstruction
        if self.target == "next" and inputs.shape[1] > 1:  # a single frame has no next one
            reconstruction, target = reconstruction[:, :-1], target[:, 1:]
        error = 4 * (reconstruction - target).square().mean()
        if self.slot_contrast and output.slots.shape[1] > 1:
            contrast = losses.slot_slot_contrast(output.slots, holds=non_empty_slots(output.attention))
            error = error + self.slot_contrast * contrast
        penalty = model.grouping.slot_attention.penalty(output.slots.flatten(0, 1))
        return error if penalty is None else error + penalty

    def is_single_frame(self, step: int) -> bool:
        """Whether a step uses single frames."""
        return self.is_per_frame or step < self.single_frame_steps

    def conditions(self, masks: Tensor) -> Tensor | None:
        """Conditions from true masks [batch, height, width] of first frames; None if unconditional."""
        if self.conditioning == "unconditional":
            return None
        return object_conditions(masks, self.num_slots, self.conditioning)

    def scores(self, model: SlotVideo, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        output = self.discover(model, scenes, indices)
        truth = scenes["masks"]
        tracks = motion.track(scenes["image"], output.masks)
        right, judged = motion.verdicts_right(tracks, output.masks, scenes)
        height, width = truth.shape[-2:]
        attention = enlarge(output.attention.flatten(0, 1).float(), height, width).unflatten(
            0, truth.shape[:2]
        )
        error = 4 * (output.reconstruction - model.to_modality(scenes["image"])).square().mean(
            dim=(1, 2, 3, 4)
        )
        return self.mask_scores(scenes, output.masks) | {
            "attention_fg_ari": metrics.frame_adjusted_rand_index(truth, attention, ignore_background=True),
            "attention_ari": metrics.frame_adjusted_rand_index(truth, attention, ignore_background=False),
            "motion_right": right,
            "motion_judged": judged,
            "mse": error.double(),
        }

    def discover(self, model: SlotVideo, scenes: Scenes, indices: Tensor) -> VideoOutput:
        """The model's output for held-out clips, with test iterations and noise seeded by the index."""
        frames, iterations = scenes["image"], self.test_iterations
        conditions = self.conditions(scenes["masks"][:, 0])
        if conditions is not None:
            return model(frames, conditions, iterations=iterations)
        noise = start_noise(indices, model.num_slots, model.slot_dim).to(frames.device)
        if not self.is_per_frame:
            return model(frames, iterations=iterations, noise=noise)
        parts = [model(frame[:, None], iterations=iterations, noise=noise) for frame in frames.unbind(1)]
        return VideoOutput(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))

    @property
    def protocol(self) -> str:
        modality = "frames" if self.modality == "frame" else "motion by block matching"
        rounds = f"{self.test_iterations} iterations in "
        rounds += (
            "every frame, each independently"
            if self.is_per_frame
            else f"the first frame, {self.later_iterations} in later ones"
        )
        conditioning = f"conditioning {self.conditioning}"
        if self.conditioning != "unconditional":
            conditioning += " of the first frame's true masks (background 0, absent objects -1)"
        return (
            f"{self.test_scenes} {self.data} clips of {self.test_frames} frames held out, input {modality}, "
            f"{rounds}, {self.num_slots} slots, {conditioning}, argmax of decoder masks; video_fg_ari: "
            "adjusted Rand index over all frames of a clip together, without true background pixels; "
            "video_ari: with them; frame_fg_ari, frame_ari: per frame; attention_fg_ari, attention_ari: "
            "per frame, of upsampled attention; id_switch_rate: share of "
            "frames in which an object is found by another slot than the last time (overlap at least 0.5, "
            "assigned one to one); motion_accuracy: share of found objects correctly "
            "classified as moving or static; mse in [-1, 1] units; mean over clips"
        )


def non_empty_slots(attention: Tensor) -> Tensor:
    """Slots [batch, time, slots] with more than half the attention [batch, time, slots, rows, columns] at
    `MIN_INPUTS` inputs or more."""
    return (attention.detach() > 0.5).flatten(-2).sum(dim=-1) >= MIN_INPUTS


def flow_images(flow: Tensor) -> Tensor:
    """Flow [batch, time, 2, height, width] as images in [0, 1]."""
    return motion_image(flow.flatten(0, 1)).unflatten(0, flow.shape[:2])


def object_conditions(masks: Tensor, num_slots: int, kind: Conditioning) -> Tensor:
    """Boxes (top, left, bottom, right) or centres (down, across) in [0, 1] of label maps [batch, height,
    width]: slot k is conditioned on label k.

    The background's condition is all 0, as in SAVi's code (Kipf et al. 2022; `CoordinateEncoderStateInit`
    with `prepend_background`), which no object has. Absent objects are all -1. SAVi's code pads with 0
    (`NOTRACK_BOX`), so absent objects share the background's initial state. Objects beyond `num_slots` - 1
    are ignored. See `nn.ConditionedSlots` on equal conditions.

    Example:
        >>> object_conditions(torch.tensor([[[0, 1], [0, 1]]]), 3, "boxes")[0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]
    """
    height, width = masks.shape[-2:]
    present = functional.one_hot(masks.clamp_min(0), max(num_slots, int(masks.max()) + 1))
    present = present[..., 1:num_slots].permute(0, 3, 1, 2).bool()
    rows, columns = present.any(3).int(), present.any(2).int()
    first = [line.argmax(-1) for line in (rows, columns)]
    last = [size - line.flip(-1).argmax(-1) for line, size in ((rows, height), (columns, width))]
    box = torch.stack([first[0] / height, first[1] / width, last[0] / height, last[1] / width], dim=-1)
    conditions = box if kind == "boxes" else (box[..., :2] + box[..., 2:]) / 2
    conditions = torch.where(present.any(3).any(2)[..., None], conditions, -1.0)
    return functional.pad(conditions, (0, 0, 1, 0), value=0.0)


moving_sprites = Video(
    name="moving-sprites",
    description="Generated clips of moving and static coloured sprites; minutes on one core",
    data="moving-sprites",
    num_slots=6,
    steps=1000,
    **FAST | {"evaluate_every": 250, "validation_scenes": 32, "test_scenes": 160},
)
"""Sprites that move, occlude each other, leave and enter: `objecthood train moving-sprites`."""

camouflage = Video(
    name="camouflage",
    description="Random-dot motion: objects textured like the background; minutes on one core",
    data="camouflage",
    modality="motion",
    num_slots=4,
    steps=800,
    single_frame_steps=300,
    **FAST | {"evaluate_every": 250, "validation_scenes": 32, "test_scenes": 160},
)
"""Objects are visible by motion only: `objecthood train camouflage`."""
