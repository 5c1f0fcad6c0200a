"""Object discovery in photographs: slots that reconstruct frozen features of a pretrained backbone.

DINOSAUR (Seitzer et al. 2023, arXiv 2209.14860) with the settings of its public code (configs of
amazon-science/object-centric-learning-framework, projects/bridging), and SPOT (Kakogeorgiou et al. 2024,
arXiv 2312.00648) with those of gkakogeorgiou/spot. They need a GPU and the backbone's weights, which are
looked for in the hub's local cache and downloaded otherwise. `photos-slots` is for two CPU cores and the
bundled backbone, whose features are computed once (`data.feature_cache`).

Differences from the papers: the backbone stays frozen in SPOT's second stage, too; the gradient's 2-norm is
clipped, where SPOT clips its largest value; the cosine ends at 0, where SPOT's ends at 4e-7.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from objecthood import losses
from objecthood.data.feature_cache import CachedFeatures, FeatureCache, default_folder
from objecthood.data.randomness import restart_noise
from objecthood.data.scene import Dataset, Scenes
from objecthood.data.transforms import mirror
from objecthood.models.base import SlotOutput
from objecthood.models.dinosaur import Dinosaur
from objecthood.models.of_features import Decoder, feature_error
from objecthood.nn import GaussianSlots, Grouping, LearnedSlots, SlotAttention
from objecthood.nn.autoregressive_decoder import AutoregressiveDecoder
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.feature_decoders import MLPFeatureDecoder
from objecthood.recipes.known_features import computed_once
from objecthood.recipes.over_features import OverFeatures
from objecthood.recipes.sources import describe_scenes

Initial = Literal["gaussian", "learned"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureDiscovery(OverFeatures):
    """DINOSAUR on photographs."""

    num_slots: int = 7
    slot_dim: int = 256
    initial_slots: Initial = "gaussian"
    """Initial slots; learned ones have the bi-level gradient (BO-QSA)."""
    decoder: Literal["mlp", "autoregressive"] = "mlp"
    decoder_dim: int = 2048
    """Width of the MLP decoder's hidden layers."""
    decoder_heads: int = 8
    """Of the autoregressive decoder's attention."""
    patch_orders: int = 1
    """Orders of patches that the autoregressive decoder learns, at most 9."""
    test_iterations: int = 3
    minimums = OverFeatures.minimums | {
        "num_slots": 1,
        "slot_dim": 1,
        "decoder_dim": 1,
        "decoder_heads": 1,
        "patch_orders": 1,
        "test_iterations": 1,
    }
    maximums = OverFeatures.maximums | {"patch_orders": 9}
    choices: ClassVar[dict[str, Any]] = OverFeatures.choices | {
        "initial_slots": get_args(Initial),
        "decoder": ("mlp", "autoregressive"),
    }

    def build_model(self) -> Dinosaur:
        features = self.build_backbone()
        size = (self.resolution, self.resolution)
        grid, dim = features.grid(size), features.feature_dim
        of_attention, of_decoder = self.numerics(dim)
        decoder: Decoder
        if self.decoder == "mlp":
            decoder = MLPFeatureDecoder(self.slot_dim, grid, dim, self.decoder_dim)
        else:
            sizes: dict[str, Any] = {"heads": self.decoder_heads, "orders": self.patch_orders}
            decoder = AutoregressiveDecoder(self.slot_dim, grid, dim, **sizes, **of_decoder)
        learned = self.initial_slots == "learned"
        initial = (LearnedSlots if learned else GaussianSlots)(self.num_slots, self.slot_dim)
        options = {"input_dim": self.slot_dim, "gradient": "bilevel" if learned else "full"} | of_attention
        attention = SlotAttention(slot_dim=self.slot_dim, hidden_dim=4 * self.slot_dim, **options)
        return Dinosaur(features, Grouping(initial, attention), decoder, size, **self.variant)

    @property
    def variant(self) -> dict[str, Any]:
        """Arguments of the model that are not the paper's."""
        return {}

    def numerics(self, feature_dim: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Other arguments of slot attention and of the autoregressive decoder."""
        return {}, {}

    def loss(self, model: Dinosaur, scenes: Scenes, step: int) -> Tensor:
        features, _ = self.augmented(model, scenes)
        return feature_error(model.group(features).decoded, features).mean()

    def discover(self, model: Dinosaur, scenes: Scenes, indices: Tensor) -> SlotOutput:
        """The model's output for held-out images, from noise fixed by the index."""
        noise = restart_noise(indices, 1, model.num_slots, model.slot_dim)
        images = scenes["image"]
        features = scenes["features"] if "features" in scenes else model.backbone(images)
        return model.segment_features(
            features, images, iterations=self.test_iterations, noise=noise.to(images.device)
        )

    def scores(self, model: Dinosaur, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Reconstruction error of features, and the scores of masks where the scenes have true ones."""
        output = self.discover(model, scenes, indices)
        assert output.masks is not None
        features = scenes["features"] if "features" in scenes else model.backbone(scenes["image"])
        error = feature_error(model.decoder(output.slots, features), features)
        return {"feature_mse": error.double()} | self.mask_scores(scenes, output.masks)

    @property
    def masks_in_words(self) -> str:
        """Of `masks_scored`."""
        return "the decoder's masks"

    @property
    def masks_scored(self) -> str:
        how = f"{self.test_iterations} iterations, {self.num_slots} slots, one restart"
        return f"{how}, argmax of {self.masks_in_words}"

    @property
    def protocol(self) -> str:
        kind = describe_scenes(self)
        return (
            f"{self.test_scenes} {kind} held out (at most), at {self.resolution} x {self.resolution} pixels, "
            f"{self.masks_scored}; fg_ari: adjusted Rand index of objects' pixels; mbo_i, "
            "mbo_c: mean best overlap of objects, and of classes; feature_mse: squared error of the "
            "backbone's features; means over images; scores of masks only where there are true ones"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distillation(FeatureDiscovery):
    """Slots whose attention also learns from the masks of a teacher; subclasses say which."""

    distillation: float
    """Weight of the distillation loss."""

    taught_iterations: ClassVar[slice] = slice(-1, None)
    """The iterations whose attention learns from the teacher (SPOT: the last)."""

    def loss(self, model: Dinosaur, scenes: Scenes, step: int) -> Tensor:
        features, mirrored = self.augmented(model, scenes)
        found = model.group(features)
        masks = self.teacher_masks(scenes, features, mirrored)
        taught = found.attention.flatten(3)[:, self.taught_iterations].unbind(dim=1)
        wanted = masks.float().flatten(2)
        distances = [losses.attention_distillation(attention, wanted) for attention in taught]
        distance = torch.stack(distances).mean()
        return feature_error(found.decoded, features).mean() + self.distillation * distance

    def teacher_masks(self, scenes: Scenes, features: Tensor, mirrored: Tensor) -> Tensor:
        """Masks [batch, segments, rows, columns] of the features, which are mirrored already."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTraining(Distillation):
    """SPOT's second stage: the teacher is a trained model of the first."""

    distillation: float = 0.005
    teacher: str = ""
    """Weights of the first stage, made by a recipe with the same backbone and decoder."""

    def teacher_masks(self, scenes: Scenes, features: Tensor, mirrored: Tensor) -> Tensor:
        order = int(torch.randint(self.patch_orders, ()))
        with torch.no_grad():
            return _load_teacher(self, str(features.device)).group(features, order=order).decoded.masks


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutDistillation(Distillation):
    """The teacher is a consensus of normalised cuts of the same features (`nn.consensus_cut`), computed once.

    At test time nothing is decomposed: masks are the slots' attention, and follow the image's edges.
    """

    distillation: float = 1.0
    cached: bool = True
    context_blocks: int = 2
    """Blocks of convolutions before the slots (`nn.local_context`)."""

    taught_iterations = slice(None)
    minimums = FeatureDiscovery.minimums | {"context_blocks": 0}
    maximums = FeatureDiscovery.maximums | {"context_blocks": 16}

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.cached:
            raise ValueError("`cached` (=False) must be True here: segments are computed once and kept")

    @property
    def masks_in_words(self) -> str:
        return "the attention, its edges those of the image"

    @property
    def variant(self) -> dict[str, Any]:
        options: dict[str, Any] = dict.fromkeys(("attention_masks", "guided_masks", "positions"), True)
        return options | {"context_blocks": self.context_blocks}

    def with_features(self, scenes: Dataset) -> Dataset:
        """Scenes with features, and with the label map of the cut."""
        known = super().with_features(scenes)
        assert isinstance(known, CachedFeatures)
        rows, columns, _ = known.cache.shape
        cache = FeatureCache(default_folder(), f"cut of {known.cache.key}", (rows, columns, 1))
        return computed_once(known, cut_features, cache, "segments")

    def teacher_masks(self, scenes: Scenes, features: Tensor, mirrored: Tensor) -> Tensor:
        labels = mirror(scenes["segments"], mirrored, dim=2)[..., 0].long()
        return F.one_hot(labels).movedim(-1, 1)


def cut_features(scenes: Scenes) -> Tensor:
    """Label maps [batch, rows, columns, 1] of the segments of each image's features."""
    cut = ConsensusCut()
    return torch.stack([cut([F.normalize(one, dim=-1)]).labels for one in scenes["features"]])[..., None]


@lru_cache(maxsize=1)
def _load_teacher(recipe: SelfTraining, device: str) -> Dinosaur:
    """The model of `recipe.teacher`, in evaluation mode; ValueError where it does not fit the recipe."""
    if not recipe.teacher:
        raise ValueError(
            "`teacher` (='') must name the first stage's weights: --teacher RUN/weights.safetensors"
        )
    try:
        weights = load_file(Path(recipe.teacher))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`teacher` (={recipe.teacher!r}) cannot be read ({error})") from error
    initial_slots: Initial = "learned" if "grouping.initial_slots.queries" in weights else "gaussian"
    with torch.random.fork_rng(devices=[]):
        model = dataclasses.replace(recipe, initial_slots=initial_slots).build_model()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"`teacher` (={recipe.teacher!r}) does not fit the recipe ({reason:.200}); train it with "
            "the same backbone and decoder"
        ) from error
    return model.to(device).requires_grad_(False).eval()


DINOSAUR: dict[str, Any] = dict(
    data="coco",
    steps=500_000,
    gradient_clip=1.0,
    evaluate_every=5000,
)
"""The published training on COCO: `_base_feature_recon.yaml` and `coco_feat_rec_dino_*.yaml`; batch size and
learning rate are the defaults."""

dinosaur_vits16_coco = FeatureDiscovery(
    name="dinosaur-vits16-coco",
    description="DINOSAUR on COCO: DINO ViT-S/16, autoregressive decoder (or --decoder mlp); for a GPU",
    backbone="hf:facebook/dino-vits16",
    decoder="autoregressive",
    **DINOSAUR,
)

dinosaur_dinov2_small = FeatureDiscovery(
    name="dinosaur-dinov2-small",
    description="DINOSAUR on COCO: DINOv2 ViT-S/14, MLP decoder; for a GPU",
    backbone="hf:facebook/dinov2-small",
    **DINOSAUR,
)

SPOT: dict[str, Any] = dict(
    data="coco",
    backbone="hf:facebook/dino-vitb16",
    decoder="autoregressive",
    decoder_heads=6,
    patch_orders=9,
    steps=92_400,  # 50 epochs of COCO's 118,287 images
    decay_half_life=0,
    gradient_clip=0.3,
    evaluate_every=5000,
)
"""Of train_spot.py and train_spot_2.py, for COCO; batch size and learning rate are the defaults."""

spot_vitb16_teacher = FeatureDiscovery(
    name="spot-vitb16-teacher",
    description="SPOT on COCO, first stage: DINO ViT-B/16, nine patch orders; for a GPU",
    **SPOT,
)

spot_vitb16 = SelfTraining(
    name="spot-vitb16",
    description="SPOT on COCO, second stage: --teacher RUN/weights.safetensors of the first; for a GPU",
    initial_slots="learned",
    **SPOT,
)

photos_slots = CutDistillation(
    name="photos-slots",
    description="Slots over bundled features of photographs, trained on normalised cuts: --data-path PHOTOS",
    backbone="efficientnet-lite0",
    resolution=320,
    final_norm=True,
    initial_slots="learned",
    slot_dim=64,
    num_slots=9,
    decoder_dim=64,
    distillation=5.0,
    steps=2000,
    batch_size=16,
    learning_rate=2e-3,
    warmup_steps=40,
    decay_half_life=0,
    gradient_clip=1.0,
    ema_decay=0.99,
)
