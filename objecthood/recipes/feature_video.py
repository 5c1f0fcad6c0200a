"""Object discovery in video: slots that reconstruct frozen features and persist from frame to frame.

VideoSAUR (Zadaianchuk et al. 2023, arXiv 2306.04829) with the settings of its public code (configs/videosaur
of martius-lab/videosaur), and SlotContrast (Manasyan et al. 2025, arXiv 2412.14295) with those of
martius-lab/slotcontrast. They need a GPU, a folder of videos and the backbone's weights. `clips-slots` is for
two CPU cores and the bundled backbone, whose features are computed once (`data.feature_cache`).

Differences from the papers: those of `models.feature_video`; half of the clips are mirrored in SlotContrast's
training, too (there: on MOVi only); clips are cut from each video one after the other (there: one random clip
of a video); frames are central squares (there: random crops on YouTube-VIS); the learning rate has a
half-life of 100,000 steps from the start (there: from the end of the warm-up).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objecthood import losses, metrics
from objecthood.data.clip_folder import ClipFolder
from objecthood.data.randomness import start_noise
from objecthood.data.remembered import Remembered
from objecthood.data.scene import Dataset, EndlessDataset, Scenes
from objecthood.data.transforms import mirror
from objecthood.models.feature_video import MOTION_DIM, ClipMasks, ClipSlots, FeatureVideo
from objecthood.models.of_features import Decoder
from objecthood.motion.residual import ResidualMotion
from objecthood.nn import GaussianSlots, Grouping, LearnedSlots, SlotAttention, TransformerPredictor
from objecthood.nn.attention_bias import SpatialBias, grow_merge_penalty
from objecthood.nn.feature_decoders import MLPFeatureDecoder, SlotMixerDecoder
from objecthood.nn.frozen_features import Backbone, backbone
from objecthood.nn.guided_filter import masks_at_size
from objecthood.nn.randomness import per_image
from objecthood.nn.stored_vit import StoredViT
from objecthood.recipes.clips import ClipRecipe
from objecthood.recipes.known_features import cached, known_backbone

MERGING = 50
"""Step from which the penalty of duplicate slots grows; from the start it leaves all inputs to one slot."""
NORM_EPSILON = 1e-5
"""Of layer norms in VideoSAUR and SlotContrast: PyTorch's default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureVideoDiscovery(ClipRecipe):
    """Slots over frozen features of clips, with SlotContrast's modules."""

    data: str = "clips"
    """"clips" (videos and folders of frames in `data_path`), or generated: "moving-sprites" or
    "camouflage"."""
    data_path: str = ""
    """Folder of the clips."""
    clips: int = 0
    """Number of generated clips to train on, each time the same; 0: endless. Of a folder all are used."""
    resolution: int = 224
    """Side of the square frames in pixels, a multiple of the backbone's patch."""
    frames: int = 4
    """Frames of a training clip."""
    num_slots: int = 7
    test_iterations: int = 3
    backbone: str
    """"efficientnet-lite0" (comes with the package), "hf:OWNER/NAME" or "timm:NAME" (`recipes.features`)."""
    cached: bool = False
    """Whether features are computed once and kept on disk, as in `recipes.features`."""
    slot_dim: int = 64
    decoder_dim: int = 1024
    """Width of the decoder's hidden layers."""
    similarity: float = 0.0
    """Weight of `losses.similarity_loss`, temporal feature similarity; 0: none is predicted."""
    similarity_temperature: float = 0.25
    """Of the softmax over cosines."""
    slot_contrast: float = 0.0
    """Weight of `losses.slot_slot_contrast` between adjacent frames; 0: none."""
    motion: float = 0.0
    """Weight of the squared error of motion (`motion.residual`), which is then grouped beside the features;
    0: no motion is computed."""

    main_score = "video_fg_ari"
    minimums = ClipRecipe.minimums | {"frames": 1, "clips": 0, "slot_dim": 1, "decoder_dim": 1}
    choices: ClassVar[dict[str, Any]] = {"data": ("clips", "moving-sprites", "camouflage")}

    final_norm = False
    """Whether the backbone's last norm is applied (a class attribute, as those that follow)."""
    initial_slots = "learned"
    """Initial slots of the first frame: "gaussian" or "learned"."""
    slot_mlp = True
    """Whether an MLP follows the GRU in slot attention."""
    decoder = "mlp"
    """"mlp" or "mixer"."""
    decoder_layers = 3
    """Number of its hidden layers."""
    decoder_blocks = 3
    """Transformer blocks of the mixer."""
    decoder_heads = 4
    """Of the mixer's attention, and of the predictor's."""
    feature_weight = 1.0
    """Weight of the squared error of features; 0: none are decoded."""
    positions = False
    """Whether an embedding of their positions is added to what slots group; features of a ViT hold them."""
    attention_prior = 0.0
    """Weight of each slot's Gaussian in the attention logits (`nn.attention_bias`); 0: none."""
    attention_conditioned = False
    """Whether the log of the attention is added to the MLP decoder's mask logits."""
    duplicate_penalty = 0.0
    """Largest reduction of the attention logits of duplicates, growing from step `MERGING` on; 0: none."""
    centred_features = False
    """Whether features lose their mean over training frames at each position."""
    guided_masks = False
    """Whether masks follow the edges of the frames (`nn.guided_filter`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("feature_weight", "similarity", "slot_contrast", "motion"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be 0 or more, and finite")
        if not 0 < self.similarity_temperature < float("inf"):
            raise ValueError(f"`similarity_temperature` (={self.similarity_temperature}) must be above 0")
        if not (self.feature_weight or self.similarity):
            raise ValueError("`feature_weight` and `similarity` are both 0: nothing is decoded; set one")
        if self.frames == 1 and (self.similarity or self.slot_contrast or self.motion):
            raise ValueError(
                "`frames` (=1) must be at least 2 for `similarity`, `slot_contrast` and `motion`, which "
                "compare frames"
            )
        if self.cached and self.data != "clips" and not self.clips:
            raise ValueError("`cached` (=True) needs a number of `clips`: endless ones cannot be kept")

    def build_model(self) -> FeatureVideo:
        features, size = self.build_backbone(), (self.resolution, self.resolution)
        grid, dim, slot_dim = features.grid(size), features.feature_dim, self.slot_dim
        decoded = dim * bool(self.feature_weight) + grid[0] * grid[1] * bool(self.similarity)
        decoded += MOTION_DIM * bool(self.motion)
        decoder: Decoder
        if self.decoder == "mlp":
            sizes = (self.decoder_dim, self.decoder_layers, self.attention_conditioned)
            decoder = MLPFeatureDecoder(slot_dim, grid, decoded, *sizes)
            nn.init.normal_(decoder.positions, std=slot_dim**-0.5)  # as theirs; DINOSAUR's: 0.02
        else:
            decoder = SlotMixerDecoder(
                slot_dim,
                grid,
                decoded,
                self.decoder_dim,
                self.decoder_layers,
                self.decoder_blocks,
                self.decoder_heads,
            )
        initial = (LearnedSlots if self.initial_slots == "learned" else GaussianSlots)(
            self.num_slots, slot_dim
        )
        bias = None
        if self.attention_prior:
            merges = self.duplicate_penalty > 0
            bias = SpatialBias(grid, self.attention_prior, self.duplicate_penalty, split_slots=merges)
        attention = SlotAttention(
            slot_dim,
            slot_dim,
            hidden_dim=4 * slot_dim,
            norm_epsilon=NORM_EPSILON,
            mlp=self.slot_mlp,
            attention_bias=bias,
            normalized_state=True,
        )
        return FeatureVideo(
            features,
            Grouping(initial, attention),
            decoder,
            TransformerPredictor(slot_dim, self.decoder_heads, 4 * slot_dim, NORM_EPSILON),
            size,
            2 * dim,
            self.later_iterations,
            self.feature_weight > 0,
            self.similarity > 0,
            ResidualMotion(grid) if self.motion else None,
            self.centred_features,
            positions=self.positions,
            guided_masks=self.guided_masks,
        )

    def build_backbone(self) -> Backbone | StoredViT:
        """The backbone whose features are grouped and reconstructed."""
        return backbone(self.backbone, 0, self.final_norm)

    @property
    def train_frames(self) -> int:
        return self.frames

    def dataset(self, split: str) -> Dataset:
        frames = self.frames if split == "train" else self.test_frames
        if self.data == "clips":
            if not self.data_path:
                raise ValueError(
                    "recipe data 'clips' needs `data_path` (=''): name a folder of videos, --data-path FOLDER"
                )
            scenes: Dataset = ClipFolder(self.data_path, self.resolution, split, frames=frames)
        else:
            scenes = super().dataset(split)
            assert isinstance(scenes, EndlessDataset)  # generated
            count = {"validation": self.validation_scenes, "test": self.test_scenes}.get(split, self.clips)
            if count:
                scenes.size, scenes.endless = count, False
        if not self.cached:
            return scenes
        features = known_backbone(self.backbone, 0, self.final_norm)
        scenes = cached(scenes, features, self.resolution, batch_size=4)
        if not self.motion:
            return scenes
        motion = ResidualMotion(features.grid((self.resolution, self.resolution)))
        return Remembered(scenes, lambda some: motion.of_clips(some["image"]), "motion")

    def loss(self, model: FeatureVideo, scenes: Scenes, step: int) -> Tensor:
        features = self._features(model, scenes)
        mirrored = per_image(lambda size: torch.rand(size), len(features)) < 0.5
        features = mirror(features, mirrored, dim=3)
        model.track_mean(features, step)
        grow_merge_penalty(model.grouping.slot_attention.attention_bias, step, start=MERGING)
        motion = self._motion(model, scenes)
        if motion is not None:
            motion = mirror_motion(motion, mirrored)
        output = model.clip(features, motion=motion)
        total = features.new_zeros(())
        if output.features is not None:
            total = total + self.feature_weight * (output.features - features).square().mean()
        if output.similarity is not None:
            total = total + self.similarity * self._similarity_losses(output, features).mean()
        if output.motion is not None and motion is not None:
            total = total + self.motion * (output.motion - motion).square().mean()
        if self.slot_contrast:
            total = total + self.slot_contrast * losses.slot_slot_contrast(output.slots)
        return total

    def scores(self, model: FeatureVideo, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Reconstruction error of features, and the scores of masks where the clips have true ones."""
        features, motion = self._features(model, scenes), self._motion(model, scenes)
        output = self._clip(model, features, motion, indices)
        if output.features is None:
            errors = {"similarity_loss": self._similarity_losses(output, features).double()}
        else:
            squared = (output.features - features).square()
            errors = {"feature_mse": squared.flatten(1).mean(dim=1).double()}
        if output.motion is not None and motion is not None:
            errors["motion_mse"] = (output.motion - motion).square().flatten(1).mean(dim=1).double()
        if "masks" not in scenes:
            return errors
        return errors | self.mask_scores(scenes, model.at_size(output.masks, scenes["image"]))

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        if "masks" not in scenes:
            return {}
        overlap = metrics.video_mean_best_overlap(scenes["masks"], masks)
        return super().mask_scores(scenes, masks) | {"video_mbo": overlap}

    def discover(self, model: FeatureVideo, scenes: Scenes, indices: Tensor) -> ClipMasks:
        """Masks of held-out clips, from noise fixed by the index."""
        known = self._features(model, scenes), self._motion(model, scenes)
        output = self._clip(model, *known, indices)
        return ClipMasks(output.slots, model.at_size(output.masks, scenes["image"]))

    def frozen_features(self, scenes: Scenes) -> Tensor | None:
        if "features" in scenes:
            return scenes["features"]
        features = known_backbone(self.backbone, 0, self.final_norm)
        return torch.stack([features(clip.to(features.device)) for clip in scenes["image"]])

    def frame_motion(self, scenes: Scenes) -> Tensor | None:
        if not self.motion or "motion" in scenes:
            return scenes.get("motion")
        features = known_backbone(self.backbone, 0, self.final_norm)
        return ResidualMotion(features.grid((self.resolution, self.resolution))).of_clips(scenes["image"])

    def enlarge(self, labels: Tensor, images: Tensor) -> Tensor:
        if not self.guided_masks:
            return super().enlarge(labels, images)
        masks = F.one_hot(labels.flatten(0, 1)).movedim(-1, 1).float()
        pairs = zip(masks, images.flatten(0, 1), strict=True)
        return torch.stack([masks_at_size(*pair) for pair in pairs]).unflatten(0, labels.shape[:2])

    def _features(self, model: FeatureVideo, scenes: Scenes) -> Tensor:
        """Features [batch, time, rows, columns, dim] of clips, as far as they are not known."""
        return scenes["features"] if "features" in scenes else model.features_of(scenes["image"])

    def _motion(self, model: FeatureVideo, scenes: Scenes) -> Tensor | None:
        """Motion of clips, as far as it is not known; None for a model without it."""
        if model.motion is None:
            return None
        return scenes["motion"] if "motion" in scenes else model.motion.of_clips(scenes["image"])

    def _clip(
        self, model: FeatureVideo, features: Tensor, motion: Tensor | None, indices: Tensor
    ) -> ClipSlots:
        noise = start_noise(indices, model.num_slots, model.slot_dim).to(features.device)
        return model.clip(features, iterations=self.test_iterations, noise=noise, motion=motion)

    def _similarity_losses(self, output: ClipSlots, features: Tensor) -> Tensor:
        """Of each clip."""
        assert output.similarity is not None  # checked by the caller
        wanted = losses.temporal_similarity(features.flatten(2, 3), self.similarity_temperature)
        return losses.similarity_loss(output.similarity[:, :-1], wanted)

    @property
    def protocol(self) -> str:
        return (
            f"{self.test_scenes} {self.data} clips of {self.test_frames} frames held out (at most), at "
            f"{self.resolution} x {self.resolution} pixels, {self.test_iterations} iterations in the first "
            f"frame, {self.later_iterations} in later ones, {self.num_slots} slots, argmax of the decoder's "
            "masks; video_fg_ari: adjusted Rand index over all frames of a clip together, without true "
            "background pixels; video_ari: with them; frame_fg_ari, frame_ari: per frame; video_mbo: mean "
            "best overlap of tubes; id_switch_rate: share of frames in which an object is found by another "
            "slot than the last time (overlap at least 0.5, assigned one to one); feature_mse: squared error "
            "of the backbone's features; means over clips; scores of masks only where there are true ones"
        )


def mirror_motion(motion: Tensor, chosen: Tensor) -> Tensor:
    """Motion [batch, time, rows, columns, 2], of the `chosen` clips mirrored: cells across the frame,
    and what moves right moves left.

    Example:
        >>> motion = torch.tensor([[3.0, 1.0], [0.0, 0.0]]).view(1, 1, 1, 2, 2)
        >>> mirror_motion(motion, torch.tensor([True])).flatten(0, 3).tolist()
        [[0.0, 0.0], [-3.0, 1.0]]
    """
    turned = motion.flip(3) * motion.new_tensor([-1.0, 1.0]) + 0.0  # no -0
    return torch.where(chosen.to(motion.device).view(-1, 1, 1, 1, 1), turned, motion)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VideoSaur(FeatureVideoDiscovery):
    """VideoSAUR's modules: Gaussian slots, no MLP after the GRU, and the slot mixer."""

    similarity: float = 0.1

    initial_slots = "gaussian"
    slot_mlp = False
    decoder = "mixer"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipsSlots(FeatureVideoDiscovery):
    """For a training of minutes: motion, centred features, positions, a spatial bias with suppression of
    duplicates, masks conditioned on the attention, and masks that follow the edges of the frames."""

    final_norm = True
    positions = True
    attention_prior = 1.0
    attention_conditioned = True
    duplicate_penalty = 15.0
    centred_features = True
    guided_masks = True


PUBLISHED: dict[str, Any] = dict(
    steps=100_000,
    warmup_steps=2500,
    gradient_clip=0.05,
    evaluate_every=2500,
    test_scenes=200,
)
"""Of both: `trainer` and `optimizer` in configs/videosaur and configs/slotcontrast."""

videosaur_vitb16 = VideoSaur(
    name="videosaur-vitb16",
    description="VideoSAUR (YouTube-VIS settings): DINO ViT-B/16, --data-path VIDEOS; for a GPU",
    backbone="hf:facebook/dino-vitb16",
    similarity_temperature=0.25,
    batch_size=128,
    learning_rate=4e-4,
    **PUBLISHED,
)
"""configs/videosaur/ytvis.yml."""

videosaur_dinov2_base = VideoSaur(
    name="videosaur-dinov2-base",
    description="VideoSAUR (YouTube-VIS settings): DINOv2 ViT-B/14 at 518, --data-path VIDEOS; for a GPU",
    backbone="hf:facebook/dinov2-base",
    resolution=518,
    similarity_temperature=0.15,
    batch_size=64,
    learning_rate=2e-4,
    **PUBLISHED,
)
"""configs/videosaur/ytvis_dinov2.yml."""

slotcontrast_dinov2_base = FeatureVideoDiscovery(
    name="slotcontrast-dinov2-base",
    description="SlotContrast (YouTube-VIS settings): DINOv2 ViT-B/14 at 518, --data-path VIDEOS; for a GPU",
    backbone="hf:facebook/dinov2-base",
    resolution=518,
    slot_contrast=0.5,
    batch_size=64,
    learning_rate=8e-4,
    **PUBLISHED,
)
"""configs/slotcontrast/ytvis2021.yaml."""

slotcontrast_dinov2_small = FeatureVideoDiscovery(
    name="slotcontrast-dinov2-small",
    description="SlotContrast (MOVi-C settings): DINOv2 ViT-S/14 at 336, --data-path VIDEOS; for a GPU",
    backbone="hf:facebook/dinov2-small",
    resolution=336,
    num_slots=11,
    slot_contrast=0.5,
    batch_size=64,
    learning_rate=4e-4,
    **PUBLISHED,
)
"""configs/slotcontrast/movi_c.yaml."""

clips_slots = ClipsSlots(
    name="clips-slots",
    description="Your own videos: --data-path VIDEOS; slots over bundled features, minutes on one core",
    backbone="efficientnet-lite0",
    cached=True,
    resolution=192,
    num_slots=6,
    test_frames=12,
    decoder_dim=64,
    motion=1.0,
    steps=500,
    batch_size=8,
    learning_rate=1e-3,
    muon_learning_rate=0.01,
    warmup_steps=60,
    decay_half_life=0,
    gradient_clip=1.0,
    ema_decay=0.99,
    evaluate_every=200,
    validation_scenes=16,
    test_scenes=40,
)
"""On generated clips: `objecthood train clips-slots --data moving-sprites --background textured --camera 1
--clips 200`."""
