"""Objects in video (SAVi, Kipf et al. 2022, arXiv 2111.12594): frames are decoded from slots that persist.

Training begins with single frames, one of each clip, as for images, and goes on with whole clips; both phases
see as many frames a step. The model is scored on longer clips than it was trained on.

Differences from SAVi's training and test (released configuration of SAVi-S, `savi_conditional_small.py`);
those of the model are listed in `models.video`:

- Data: sprites made here, not MOVi. Training clips have 4 frames (6 there), test clips 12 (24 there).
- Target: the frame by default; optical flow to the next frame as an image is `target="flow"` (there the
  default, to the frame before where the data has it, in other colours). The error is a mean over pixels and
  channels in [-1, 1] units (there a sum, of frames or flow in [0, 1]).
- Start: unconditional by default (there boxes). Absent objects have a hint of -1 (there 0): `object_hints`.
- A warm-up on single frames (`still_steps`), and the weight of duplicate suppression grows: not in SAVi.
- Optimiser: 1000 steps of 16 frames, Muon for matrices and Adam at 1e-3, 200 steps of warm-up, gradients
  clipped to norm 1, and averaged weights. There: 100,000 steps of 64 clips, Adam at 2e-4, 2500 steps of
  warm-up, clipped to norm 0.05, no averaging. Both decay the learning rate by a cosine to zero.
- Test: 10 iterations in the first frame and 2 in later ones (there 1 in every frame, in training too).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from objecthood import losses, metrics
from objecthood.data.randomness import start_noise
from objecthood.data.scene import Scenes
from objecthood.models import video
from objecthood.models.video import SlotVideo, Start, VideoScene
from objecthood.motion import tracking as motion
from objecthood.nn import SLOT_MODULES, ResidualPredictor, TransformerPredictor
from objecthood.nn.attention_bias import grow_repulsion
from objecthood.nn.block_matching import motion_picture
from objecthood.nn.decoders import enlarge
from objecthood.recipes.base import FAST
from objecthood.recipes.clips import OnClips

TARGETS = ("seen", "next", "flow")
LEAST_HELD = 6
"""Inputs below which a slot holds nothing that could be told from others."""
PREDICTORS = ("transformer", "residual", "identity")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Video(OnClips):
    """A video model on clips made here."""

    frames: int = 4
    """Of a training clip; 1: the image model, which takes every frame for itself in tests too."""
    still_steps: int = 500
    """Steps on single frames, before those on clips."""
    predictor: str = "transformer"
    """Slots of a frame to the first guess for the next: "transformer", "residual" or "identity"."""
    start: Start = "unconditional"
    """"unconditional", or "boxes" or "centres" of the first frame's objects, taken from its true masks."""
    target: str = "seen"
    """What is painted: "seen" (what the model sees), "next" (the same, of the next frame), or "flow", the
    true flow."""
    slot_module: str = "slot-attention"
    """What groups features into slots: "slot-attention", "soft-k-means" or "slot-mlp"."""
    repulsion: float = 15.0
    """What a slot loses that shares one thing with a heavier one; 0: none."""
    slot_contrast: float = 0.0
    """Weight of the contrast of slots that hold something with all such slots a frame later
    (`losses.slot_slot_contrast`)."""

    main_score = "video_fg_ari"
    least = OnClips.least | {"frames": 1, "still_steps": 0}
    choices: ClassVar[dict[str, Any]] = {
        "target": TARGETS,
        "predictor": PREDICTORS,
        "slot_module": SLOT_MODULES,
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alone and (self.sees == "motion" or self.target == "next" or self.start != "unconditional"):
            raise ValueError(
                f"`frames` (={self.frames}) must be at least 2 to see motion, to paint the next frame, or to "
                "start from hints"
            )

    @property
    def alone(self) -> bool:
        """Whether every frame is taken for itself."""
        return self.frames == 1

    def build_model(self) -> SlotVideo:
        predictors = {"transformer": TransformerPredictor, "residual": ResidualPredictor}
        kind = predictors.get(self.predictor)
        return video.moving_sprites(
            self.num_slots,
            self.resolution,
            self.compactness,
            self.repulsion,
            True,
            self.later_iterations,
            nn.Identity() if kind is None else kind(64),
            self.start,
            self.sees,
            self.target == "next",
            self.slot_module,
        )

    @property
    def train_frames(self) -> int:
        return self.frames

    def loss(self, model: SlotVideo, scenes: Scenes, step: int) -> Tensor:
        grow_repulsion(model.grouping.slot_attention.prior, step, start=300)
        frames, masks, flow = scenes["image"], scenes["masks"], scenes["flow"]
        if self.still(step):
            first = step % (self.frames if model.sees == "frame" else self.frames - 1)
            length = 1 if model.sees == "frame" else 2  # two frames have one motion
            frames, flow, masks = (part[:, first : first + length] for part in (frames, flow, masks))
        else:
            kept = max(1, len(frames) // self.frames)
            frames, flow, masks = frames[:kept], flow[:kept], masks[:kept]
        seen = model.look(frames)
        if self.still(step):
            seen, flow, masks = seen[:, :1], flow[:, :1], masks[:, :1]
        target = motion_batch(flow) if self.target == "flow" else seen
        scene = model.see(seen, self.hints(masks[:, 0]))
        painted = scene.reconstruction
        if self.target == "next" and seen.shape[1] > 1:  # of a single frame there is no next one
            painted, target = painted[:, :-1], target[:, 1:]
        error = 4 * (painted - target).square().mean()
        if self.slot_contrast and scene.slots.shape[1] > 1:
            contrast = losses.slot_slot_contrast(scene.slots, holds=hold_something(scene.attention))
            error = error + self.slot_contrast * contrast
        return error

    def still(self, step: int) -> bool:
        """Whether a step sees single frames."""
        return self.alone or step < self.still_steps

    def hints(self, masks: Tensor) -> Tensor | None:
        """Hints of first frames [batch, height, width] if the start asks for them, see `object_hints`."""
        if self.start == "unconditional":
            return None
        return object_hints(masks, self.num_slots, self.start)

    def scores(self, model: SlotVideo, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        scene = self.discover(model, scenes, indices)
        truth = scenes["masks"]
        tracks = motion.track(scenes["image"], scene.masks)
        right, judged = motion.verdicts_right(tracks, scene.masks, scenes)
        height, width = truth.shape[-2:]
        attention = enlarge(scene.attention.flatten(0, 1).float(), height, width).unflatten(
            0, truth.shape[:2]
        )
        error = 4 * (scene.reconstruction - model.look(scenes["image"])).square().mean(dim=(1, 2, 3, 4))
        return self.mask_scores(scenes, scene.masks) | {
            "attention_fg_ari": metrics.frame_adjusted_rand_index(truth, attention, ignore_background=True),
            "attention_ari": metrics.frame_adjusted_rand_index(truth, attention, ignore_background=False),
            "motion_right": right,
            "motion_judged": judged,
            "mse": error.double(),
        }

    def discover(self, model: SlotVideo, scenes: Scenes, indices: Tensor) -> VideoScene:
        """The model's view of held-out clips, with test iterations, from start noise fixed by the index."""
        frames, iterations = scenes["image"], self.test_iterations
        hints = self.hints(scenes["masks"][:, 0])
        if hints is not None:
            return model(frames, hints, iterations=iterations)
        noise = torch.from_numpy(start_noise(np.asarray(indices), model.num_slots, model.slot_dim))
        noise = noise.to(frames.device)
        if not self.alone:
            return model(frames, iterations=iterations, noise=noise)
        parts = [model(frame[:, None], iterations=iterations, noise=noise) for frame in frames.unbind(1)]
        return VideoScene(*(torch.cat(part, dim=1) for part in zip(*parts, strict=True)))

    @property
    def protocol(self) -> str:
        sight = "frames" if self.sees == "frame" else "motion found by matching"
        rounds = f"{self.test_iterations} iterations in "
        rounds += (
            "every frame, each alone"
            if self.alone
            else f"the first frame, {self.later_iterations} in later ones"
        )
        start = f"start {self.start}"
        if self.start != "unconditional":
            start += " of the first frame's true masks (background 0, absent objects -1)"
        return (
            f"{self.test_scenes} {self.data} clips of {self.test_frames} frames held out, {sight} seen, "
            f"{rounds}, {self.num_slots} slots, {start}, argmax of decoder masks; video_fg_ari: "
            "adjusted Rand index over all frames of a clip together, without true background pixels; "
            "video_ari: with them; frame_fg_ari, frame_ari: every frame for itself; attention_fg_ari, "
            "attention_ari: the same of attention, enlarged; id_switch_rate: share of "
            "frames in which an object is found by another slot than the last time (overlap at least 0.5, "
            "assigned one to one); motion_accuracy: moving or static, right, over objects found; mse in "
            "[-1, 1] units; mean over clips"
        )


def hold_something(attention: Tensor) -> Tensor:
    """Which slots have more than half of at least `LEAST_HELD` inputs [batch, time, slots], of attention
    [batch, time, slots, rows, columns]."""
    return (attention.detach() > 0.5).flatten(-2).sum(dim=-1) >= LEAST_HELD


def motion_batch(flow: Tensor) -> Tensor:
    """Flow [batch, time, 2, height, width] as pictures."""
    return motion_picture(flow.flatten(0, 1)).unflatten(0, flow.shape[:2])


def object_hints(masks: Tensor, num_slots: int, kind: Start) -> Tensor:
    """Boxes (top, left, bottom, right) or centres (down, across) in [0, 1] of label maps [batch, height,
    width]: the background in row 0, object k in row k, so that label k is slot k.

    The background's hint is all 0, as in SAVi's code (Kipf et al. 2022; `CoordinateEncoderStateInit` with
    `prepend_background`); no object has it, as its box has an area and its centre lies inside. A row without
    an object is all -1. Here we differ: SAVi's code pads with 0 (`NOTRACK_BOX`), so that absent objects begin
    in the background's slot state and share the background with it. Objects beyond `num_slots` - 1 are left
    out. `nn.ConditionedSlots` says what equal hints lead to.

    Example:
        >>> object_hints(torch.tensor([[[0, 1], [0, 1]]]), 3, "boxes")[0].tolist()
        [[0.0, 0.0, 0.0, 0.0], [0.0, 0.5, 1.0, 1.0], [-1.0, -1.0, -1.0, -1.0]]
    """
    height, width = masks.shape[-2:]
    present = functional.one_hot(masks.clamp_min(0), max(num_slots, int(masks.max()) + 1))
    present = present[..., 1:num_slots].permute(0, 3, 1, 2).bool()
    rows, columns = present.any(3).int(), present.any(2).int()
    first = [line.argmax(-1) for line in (rows, columns)]
    last = [size - line.flip(-1).argmax(-1) for line, size in ((rows, height), (columns, width))]
    box = torch.stack([first[0] / height, first[1] / width, last[0] / height, last[1] / width], dim=-1)
    hints = box if kind == "boxes" else (box[..., :2] + box[..., 2:]) / 2
    hints = torch.where(present.any(3).any(2)[..., None], hints, -1.0)
    return functional.pad(hints, (0, 0, 1, 0), value=0.0)


moving_sprites = Video(
    name="moving-sprites",
    description="Clips of coloured sprites that move or stand still, made on the spot; minutes on one core",
    data="moving-sprites",
    num_slots=6,
    steps=1000,
    **FAST | {"evaluate_every": 250, "validation_scenes": 32, "test_scenes": 160},
)
"""Sprites that move, cover each other, leave and enter: `objecthood train moving-sprites`."""

camouflage = Video(
    name="camouflage",
    description="Things of the same noise as what lies behind them, seen by their motion alone; minutes",
    data="camouflage",
    sees="motion",
    num_slots=4,
    steps=800,
    still_steps=300,
    **FAST | {"evaluate_every": 250, "validation_scenes": 32, "test_scenes": 160},
)
"""Nothing is seen in any frame, all in their motion: `objecthood train camouflage`."""
