"""Ablations of slot attention (Locatello et al. 2020, arXiv 2006.15055, supplementary material).

Each takes one part of the paper's method away, on CLEVR-like scenes of 64 x 64 pixels; docs/ablations.md
describes all of them. The base has no spatial bias, no duplicate suppression and no slot-centric frame, so
that these do not take over the work of the part that is missing. Its masks are attention-conditioned:
without that (a row of its own), seeds of minutes differ by more than most ablations do.

Differences from the paper: a strided encoder, a patch decoder with attention-conditioned masks, learned slots
with bi-level gradient (or, with `slots="gaussian"`, the paper's), and minutes of training on one core.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from objecthood.data.scene import Scenes
from objecthood.models.autoencoder import SlotAutoencoder, patches_along
from objecthood.nn import (
    ConvEncoder,
    GaussianSlots,
    Grouping,
    LearnedSlots,
    PatchDecoder,
    SlotAttention,
    SlotMLP,
)
from objecthood.recipes.base import FAST
from objecthood.recipes.discovery import Discovery

Change = Literal[
    "none",
    "no-gru",
    "no-mlp",
    "no-input-norm",
    "no-slot-norm",
    "softmax-over-inputs",
    "weighted-sum",
    "no-positions",
    "slot-mlp",
    "unconditioned-masks",
]
SWITCHES: dict[str, dict[str, Any]] = {
    "no-gru": {"update": "replace"},
    "no-mlp": {"mlp": False},
    "no-input-norm": {"normalize_inputs": False},
    "no-slot-norm": {"normalize_slots": False},
    "softmax-over-inputs": {"competition": "inputs"},
    "weighted-sum": {"aggregation": "sum"},
}
"""Arguments of `SlotAttention` for the changes that concern it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation(Discovery):
    """Object discovery by plain slot attention, with at most one part of it changed."""

    ablation: Change = "none"
    """What is changed: "none", "no-gru", "no-mlp", "no-input-norm", "no-slot-norm", "softmax-over-inputs",
    "weighted-sum", "no-positions", "slot-mlp" or "unconditioned-masks"."""
    slots: Literal["learned", "gaussian"] = "learned"
    """Initial slots: learned queries with bi-level gradient, or the paper's Gaussian with the full one."""
    coarse_steps: int = 0
    """Steps at the beginning that see images at half the resolution, at less than half the cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, allowed in (("ablation", get_args(Change)), ("slots", ("learned", "gaussian"))):
            value = getattr(self, field)
            if value not in allowed:
                raise ValueError(f"`{field}` (={value!r}) must be one of {', '.join(allowed)}")
        if self.coarse_steps and self.resolution % 8:
            raise ValueError(
                f"`resolution` (={self.resolution}) must be a multiple of 8, to be halved; or leave "
                "coarse_steps at 0"
            )

    def build_model(self) -> SlotAutoencoder:
        decoder = PatchDecoder(
            64,
            grid=patches_along(self.resolution, 4),
            patch=4,
            channels=64,
            kernel=1,
            attention_guided=self.ablation != "unconditioned-masks",
        )
        encoder = ConvEncoder(
            channels=32,
            feature_dim=64,
            strides=(2, 1),
            kernel=(5, 3),
            places=self.ablation != "no-positions",
        )
        initial: GaussianSlots | LearnedSlots
        if self.slots == "learned":
            initial = LearnedSlots(self.num_slots, 64)
        else:
            initial = GaussianSlots(self.num_slots, 64)
        group: SlotAttention | SlotMLP
        if self.ablation == "slot-mlp":
            side = -(-self.resolution // 2)
            group = SlotMLP(self.num_slots, (side, side), 64, 64)
        else:
            group = SlotAttention(
                64,
                64,
                gradient="bilevel" if self.slots == "learned" else "full",
                **SWITCHES.get(self.ablation, {}),
            )
        return SlotAutoencoder(encoder, Grouping(initial, group), decoder)

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        images = scenes["image"]
        if step < self.coarse_steps:
            model = model.twin(
                self.resolution // 2,
                lambda side: dataclasses.replace(self, resolution=side, coarse_steps=0).build_model(),
            )
            images = F.avg_pool2d(images, 2)
        return self.error(model, images)


clevr6_ablation = Ablation(
    name="clevr6-ablation",
    description="Slot attention with one part changed (--ablation no-gru), CLEVR-like: --data-path FOLDER",
    data="clevr-like",
    min_objects=3,
    max_objects=6,
    resolution=64,
    num_slots=7,
    steps=1200,
    coarse_steps=600,
    **FAST | {"matrix_learning_rate": 0.02, "warmup_steps": 50, "average": 0.99, "evaluate_every": 300},
)
"""Rendered scenes: `objecthood data render clevr --out FOLDER`, `objecthood train clevr6-ablation --data-path
FOLDER --ablation no-gru`."""
