"""Ablations of slot attention (Locatello et al. 2020, arXiv 2006.15055, supplementary material).

Each removes one part of the method, on CLEVR-like scenes of 64 x 64 pixels (docs/ablations.md). The baseline
has no spatial bias, duplicate suppression or slot-centric reference frame, which could compensate for a
removed part. Its masks are attention-conditioned: without (an ablation of its own), seeds of short runs
differ by more than most ablations.

Differences from the paper: a strided encoder, a patch decoder with attention-conditioned masks, learned slots
with bilevel gradient (or, with `initial_slots="gaussian"`, the paper's), and minutes of training on one core.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, get_args

from objecthood.models.autoencoder import SlotAutoencoder, patches_along
from objecthood.nn import (
    SLOT_MODULES,
    ConvEncoder,
    GaussianSlots,
    Grouping,
    LearnedSlots,
    PatchDecoder,
    SlotModuleOptions,
)
from objecthood.nn.slot_attention import Gradient
from objecthood.recipes.base import FAST
from objecthood.recipes.discovery import LowResolutionWarmup

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
"""Arguments of `SlotAttention` by ablation."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ablation(LowResolutionWarmup):
    """Object discovery by plain slot attention, with at most one part changed."""

    ablation: Change = "none"
    """The changed part: "none", "no-gru", "no-mlp", "no-input-norm", "no-slot-norm", "softmax-over-inputs",
    "weighted-sum", "no-positions", "slot-mlp" or "unconditioned-masks"."""
    initial_slots: Literal["learned", "gaussian"] = "learned"
    """Initial slots: "learned" queries with bilevel gradient, or the paper's "gaussian" with full
    gradient."""

    choices: ClassVar[dict[str, Any]] = LowResolutionWarmup.choices | {
        "ablation": get_args(Change),
        "initial_slots": ("learned", "gaussian"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ablation != "none" and self.slot_module != "slot-attention":
            raise ValueError(
                f"`slot_module` (={self.slot_module!r}) must be 'slot-attention' with `ablation` "
                f"(={self.ablation!r}); set one of the two only"
            )

    def build_model(self) -> SlotAutoencoder:
        decoder = PatchDecoder(
            64,
            grid=patches_along(self.resolution, 4),
            patch=4,
            channels=64,
            kernel=1,
            attention_conditioned_masks=self.ablation != "unconditioned-masks",
        )
        encoder = ConvEncoder(
            channels=32,
            feature_dim=64,
            strides=(2, 1),
            kernel=(5, 3),
            positions=self.ablation != "no-positions",
        )
        initial: GaussianSlots | LearnedSlots
        if self.initial_slots == "learned":
            initial = LearnedSlots(self.num_slots, 64)
        else:
            initial = GaussianSlots(self.num_slots, 64)
        side = -(-self.resolution // 2)
        gradient: Gradient = "bilevel" if self.initial_slots == "learned" else "full"
        options = SlotModuleOptions(self.num_slots, (side, side), 64, 64, gradient=gradient)
        name = "slot-mlp" if self.ablation == "slot-mlp" else self.slot_module
        group = SLOT_MODULES[name](options, **SWITCHES.get(self.ablation, {}))
        return SlotAutoencoder(encoder, Grouping(initial, group), decoder)


clevr6_ablation = Ablation(
    name="clevr6-ablation",
    description="Slot attention with one part changed (--ablation no-gru), CLEVR-like: --data-path FOLDER",
    data="clevr-like",
    min_objects=3,
    max_objects=6,
    resolution=64,
    num_slots=7,
    steps=1200,
    low_resolution_steps=600,
    **FAST | {"muon_learning_rate": 0.02, "warmup_steps": 50, "ema_decay": 0.99, "evaluate_every": 300},
)
"""Rendered scenes: `objecthood data render clevr --out FOLDER`, `objecthood train clevr6-ablation --data-path
FOLDER --ablation no-gru`."""
