"""Object discovery (Locatello et al. 2020, section 4.1): trained by reconstruction, scored by masks.

The `-paper` recipes have the paper's model, optimiser, schedule and batch size, `-unmodified` ones its model
with another training. The fast ones, for two CPU cores, use Muon, learned slots with bilevel gradient, EMA
weights, and smaller encoders and decoders.
`sprites`, `tetrominoes-guided`, `folder` and `clevr6-like` also change the model (attention-conditioned
masks, spatial bias, duplicate suppression, restarts) and are not the paper's method.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from objecthood import losses, metrics
from objecthood.data.generated.sprites import Background
from objecthood.data.randomness import restart_noise
from objecthood.data.scene import Dataset, Scenes
from objecthood.models import autoencoder
from objecthood.models.autoencoder import AutoencoderOutput, SlotAutoencoder
from objecthood.models.base import SlotModel
from objecthood.nn import SLOT_MODULES
from objecthood.nn.attention_bias import grow_merge_penalty
from objecthood.nn.precision import without_autocast
from objecthood.recipes.base import FAST, Recipe
from objecthood.recipes.sources import UNLABELLED, describe_scenes, fit_of, open_dataset
from objecthood.visualize import animation, figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneDiscovery(Recipe):
    """Training on scenes of the data sets below, scored by masks."""

    data: str
    """"tetrominoes", "sprites" or "texture-LEVEL" (generated), or, from `data_path`, "folder" (images),
    "shards" (images in tar files), "clevr-like" (rendered), "multi-object" (converted), "clevr", "clevrtex"
    or "coco" ("coco-stored" or "coco-upright" for images with an EXIF orientation: which pixels are
    annotated)."""
    data_path: str = ""
    """Folder or file of the scenes."""
    min_objects: int = 0
    """Scenes with fewer objects are excluded, if the data gives their number."""
    max_objects: int = 10
    background: Background = "grey"
    """Background of sprites: "grey" or "coloured"."""
    resolution: int
    num_slots: int
    test_iterations: int = 3
    restarts: int = 1
    """Restarts per test image; scores are of the first restart and of the best by reconstruction error. With
    more than one, noise is added to learned slots, in training as well."""

    main_score = "fg_ari"
    minimums = Recipe.minimums | {"resolution": 8, "num_slots": 1, "test_iterations": 1, "restarts": 1}

    def dataset(self, split: str) -> Dataset:
        return open_dataset(self, split)

    def scores(self, model: SlotModel, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Scores of one restart, and with several `restarts` of the best: `fg_ari_best_of_8`."""
        images = scenes["image"]
        scores = self.scores_of(self.discover(model, images, indices, restarts=1), scenes)
        if self.restarts > 1:
            best = self.scores_of(self.discover(model, images, indices), scenes)
            scores |= {f"{name}_best_of_{self.restarts}": value for name, value in best.items()}
        return scores

    def scores_of(self, output: AutoencoderOutput, scenes: Scenes) -> dict[str, Tensor]:
        """Mean squared error in [-1, 1] units, and scores of masks if the scenes have true masks."""
        error = 4 * (output.reconstruction - scenes["image"]).square().mean(dim=(1, 2, 3))
        return {"mse": error.double()} | self.mask_scores(scenes, output.masks)

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        true_masks = scenes.get("masks")
        if true_masks is None:
            return {}
        return metrics.discovery_scores(true_masks, masks)

    def discover(
        self, model: SlotModel, images: Tensor, indices: Tensor, restarts: int | None = None
    ) -> AutoencoderOutput:
        """The model's output for held-out images, with test iterations and noise seeded by the index: the
        best of `restarts` (default: the recipe's) by reconstruction error."""
        restarts = self.restarts if restarts is None else restarts
        noise = restart_noise(indices, restarts, model.num_slots, model.slot_dim)
        found = model.segment(images, iterations=self.test_iterations, noise=noise.to(images.device)).found()
        return AutoencoderOutput(**found)

    def preview(self, model: SlotModel, scenes: Scenes) -> Image.Image:
        images = scenes["image"]
        output = self.discover(model, images, torch.arange(len(images)))
        return figures.slots_figure(images, output.reconstruction, output.masks, output.appearance)

    def figures(self, model: SlotModel, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        image = scenes["image"][:1]
        attention = self.discover(model, image, torch.arange(1)).attention[0]
        return {
            "slots": self.preview(model, scenes),
            "attention": figures.attention_figure(image[0], attention),
            "attention-animated": animation.attention_frames(image[0], attention),
        }

    def prepare_for_test(self, model: SlotModel) -> SlotModel:
        model.restarts, model.fit = self.restarts, fit_of(self.data)
        return super().prepare_for_test(model)

    @property
    def protocol(self) -> str:
        how = f"{self.test_iterations} iterations, {self.num_slots} slots, one restart"
        n = self.restarts
        best = f"best_of_{n}: of {n} restarts the one of lowest reconstruction error; " if n > 1 else ""
        units = "mse in [-1, 1] units; mean over images"
        if self.data in UNLABELLED:
            kept = (
                f"images kept out of training (at most {self.test_scenes}; 5 % of them by a hash of their "
                "names; where they are too few for that, images of training)"
            )
            return f"{kept}, {how}; {best}{units}; no masks, so no other score"
        kind = describe_scenes(self)
        return (
            f"{self.test_scenes} {kind} held out, {how}, "
            "argmax of decoder masks; fg_ari: adjusted Rand index without true background pixels; ari: with "
            "them; mbo: mean best overlap of objects; miou: mean overlap of objects matched one to one; "
            f"{best}{units}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discovery(SceneDiscovery):
    """The paper's model and training."""

    slot_module: str = "slot-attention"
    """Slot module, one of `nn.SLOT_MODULES`."""

    choices: ClassVar[dict[str, Any]] = {"slot_module": SLOT_MODULES}

    def build_model(self) -> SlotAutoencoder:
        if self.resolution == 128:
            return autoencoder.clevr(self.num_slots, 128, self.slot_module)
        return autoencoder.small_image(self.resolution, self.num_slots, self.slot_module)

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        return self.error(model, scenes["image"])

    def error(self, model: SlotAutoencoder, images: Tensor, iterations: int | None = None) -> Tensor:
        """Reconstruction error of `images`, and the `penalty` of the slot module, if it has one."""
        decoded, slots, _ = model.decode(model.encode(images), iterations=iterations)
        reconstruction, _ = model.composite(decoded.appearance, decoded.mask_logits)
        error = losses.reconstruction_error(reconstruction, images, model.input_transform)
        return with_penalty(error, model, slots)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperClevr(Discovery):
    """The paper's CLEVR model, at any resolution that is a multiple of 16."""

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.clevr(self.num_slots, self.resolution, self.slot_module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTetrominoes(Discovery):
    """A variant: strided encoder, patch decoder, learned slots with bilevel gradient (BO-QSA)."""

    later_kernels: int = 5
    """Kernel side of the encoder's convolutions after the first."""
    last_kernel: int = 3
    """Kernel side of the decoder's last convolution."""

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.fast_tetrominoes(
            self.num_slots, self.later_kernels, self.last_kernel, self.slot_module
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowResolutionWarmup(Discovery):
    """Training with a warm-up at half the resolution, with shared weights."""

    low_resolution_steps: int = 0
    """Initial steps at half the resolution (rounded up), at a quarter to half of the cost."""

    multiple: ClassVar[int] = 8
    """What sides must be a multiple of, so that the model can be built at half of them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low_resolution_steps and self.resolution % self.multiple:
            raise ValueError(
                f"`resolution` (={self.resolution}) must be a multiple of {self.multiple} with "
                "`low_resolution_steps`; change it, or set low_resolution_steps to 0"
            )

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        images = scenes["image"]
        if step < self.low_resolution_steps:
            model, images = self.low_resolution_model(model), halve(images)
        return self.error(model, images, self.train_iterations(step))

    def train_iterations(self, step: int) -> int | None:
        """Iterations of slot attention in a training step; None: the model's default."""
        return None

    def low_resolution_model(self, model: SlotAutoencoder) -> SlotAutoencoder:
        """A weight-shared copy of the model at half the resolution."""
        half = dataclasses.replace(self, resolution=-(-self.resolution // 2), low_resolution_steps=0)
        return model.at_resolution(half.resolution, lambda _: half.build_model())


def halve(images: Tensor) -> Tensor:
    """Square images at half their side, rounded up: means of the pixels that each new one covers."""
    side = images.shape[-1]
    return F.interpolate(images, size=-(-side // 2), mode="area") if side % 2 else F.avg_pool2d(images, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unmodified(LowResolutionWarmup):
    """The paper's model, unmodified, with another training: Muon, a float32 warm-up at half the resolution,
    start values of the encoder with which features depend on content as much as on position, and a warm
    restart in long runs."""

    muon_momentum: float = 0.9
    """Muon's momentum; other recipes have its default, 0.95, with which this model learns far more slowly."""
    encoder_gain: float = 2**0.5
    """Factor of the start values of the encoder's convolutions; 1: the paper's, of Glorot; the square root of
    2: those of He et al. 2015 (arXiv 1502.01852), which keep the variance through ReLU."""
    restart_step: int = 0
    """Step of a warm restart (Loshchilov and Hutter 2017, arXiv 1608.03983) in longer runs. The learning rate
    is zero there, rises to half of its peak and falls to zero again. From there on, only half of the scenes
    of each batch are used. 0: no restart."""

    multiple = 1
    minimums = Discovery.minimums | {"restart_step": 0}

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        if self.restart_step and step >= self.restart_step:
            images = scenes["image"]
            scenes = {"image": images[: -(-len(images) // 2)]}
        if step >= self.low_resolution_steps:
            return super().loss(model, scenes, step)
        with without_autocast(scenes["image"]):  # alike on every processor: these steps decide the grouping
            return super().loss(model, scenes, step)

    def learning_rate_factor(self, step: int) -> float:
        restart = self.restart_step
        if not restart or self.steps <= restart:
            return super().learning_rate_factor(step)
        if step <= restart:
            return self.cycle(step, restart)
        return 0.5 * self.cycle(step - restart, self.steps - restart)

    def build_model(self) -> SlotAutoencoder:
        model = super().build_model()
        convolutions: Any = model.encoder.convolutions
        with torch.no_grad():
            for convolution in convolutions:
                convolution.weight.mul_(self.encoder_gain)
        return model

    def build_optimizers(self, model: SlotAutoencoder) -> list[torch.optim.Optimizer]:
        optimizers = super().build_optimizers(model)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            if "momentum" in group:
                group["momentum"] = self.muon_momentum
        return optimizers


MODEL_FIELDS = (
    *("num_slots", "resolution", "slot_module", "spatial_bias", "merge_penalty"),
    *("split_slots", "chromaticity", "second_kernel", "bias_before_attention"),
)
"""Fields of `SpatialBiasDiscovery` passed to its model."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpatialBiasDiscovery(LowResolutionWarmup):
    """A variant for coloured objects on a background: spatial bias, duplicate suppression, and
    attention-conditioned masks."""

    spatial_bias: float = 1.0
    """Weight of each slot's Gaussian in the attention logits; 0: none."""
    merge_penalty: float = 15.0
    """Largest reduction of the attention logits of duplicate slots; 0: none."""
    merge_penalty_start: int = 300
    """Step at which `merge_penalty` starts to rise, to its full weight 200 steps later."""
    split_slots: bool = True
    """Whether an empty slot receives one of two objects that another slot holds."""
    chromaticity: bool = False
    """Whether encoder and loss use chromaticity (`nn.color_transforms.opponent_chromaticity`)."""
    attention_conditioned_masks: bool = True
    """Whether the logarithm of the last attention is added to the mask logits."""
    second_kernel: int = 5
    """Kernel side of the encoder's second convolution."""
    bias_before_attention: bool = False
    """Whether the bias acts on every iteration, the first included, with split and merge of slots; training
    steps then alternate between 2 and 3 iterations."""

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.fast_sprites(
            attention_conditioned_masks=self.attention_conditioned_masks, **self.model_options
        )

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments shared by `fast_sprites` and `fast_slot_frames`."""
        fields = {name: getattr(self, name) for name in MODEL_FIELDS}
        return fields | {"noise_scale": 0.5 if self.restarts > 1 else 0.0}  # one restart needs no noise

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        grow_merge_penalty(model.grouping.slot_attention.attention_bias, step, self.merge_penalty_start)
        return super().loss(model, scenes, step)

    def train_iterations(self, step: int) -> int | None:
        return 2 + step % 2 if self.bias_before_attention else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotFrameDiscovery(SpatialBiasDiscovery):
    """A variant with slot-centric reference frames (`nn.slot_frames`), for similar objects at many locations.

    The loss is the sum of two reconstruction errors, with attention-conditioned and with unconditioned masks.
    Conditioned masks can have any shape, so one mask may cover two objects of one colour; an unconditioned
    mask has to be decoded from one slot.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attention_conditioned_masks:
            raise ValueError(
                "`attention_conditioned_masks` (=False) must be True for SlotFrameDiscovery; use a "
                "recipe of class SpatialBiasDiscovery"
            )

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.fast_slot_frames(**self.model_options)

    def error(self, model: SlotAutoencoder, images: Tensor, iterations: int | None = None) -> Tensor:
        decoded, slots, _ = model.decode(model.encode(images), iterations=iterations)
        assert decoded.unconditioned_logits is not None  # masks are attention-conditioned
        conditioned, unconditioned = (
            losses.reconstruction_error(
                model.composite(decoded.appearance, logits)[0], images, model.input_transform
            )
            for logits in (decoded.mask_logits, decoded.unconditioned_logits)
        )
        return with_penalty(conditioned + unconditioned, model, slots)


def with_penalty(error: Tensor, model: SlotAutoencoder, slots: Tensor) -> Tensor:
    """`error` plus the slot module's penalty for `slots`; as it is for modules without one."""
    penalty = model.grouping.slot_attention.penalty(slots)
    return error if penalty is None else error + penalty


tetrominoes = FastTetrominoes(
    name="tetrominoes",
    description="Three generated tetrominoes per image, by a fast variant; minutes on two CPU cores",
    expected="FG-ARI 0.982 ± 0.009; colour components 0.967 (5 seeds, results/)",
    data="tetrominoes",
    resolution=35,
    num_slots=4,
    test_iterations=5,
    steps=6000,
    later_kernels=3,
    last_kernel=1,
    **FAST,
)

SEARCH: dict[str, Any] = FAST | dict(
    warmup_steps=50,
    muon_learning_rate=0.02,
    decay_half_life=300,
    merge_penalty_start=50,
    second_kernel=3,
    bias_before_attention=True,
    test_iterations=5,
    restarts=8,
    evaluate_every=200,
)
"""Shared fields of the recipes with restarts."""

tetrominoes_guided = SlotFrameDiscovery(
    name="tetrominoes-guided",
    description="Tetrominoes and background, by a slot-centric variant; two minutes on two CPU cores",
    expected="FG-ARI 0.970 ± 0.004, best of 8 restarts 0.982; colour components 0.967 (5 seeds, results/)",
    data="tetrominoes",
    resolution=35,
    num_slots=4,
    steps=2000,
    merge_penalty=0.0,
    **SEARCH | {"decay_half_life": 0, "ema_decay": 0.998},  # a cosine adds half a per cent
)

sprites = SpatialBiasDiscovery(
    name="sprites",
    description="Generated overlapping coloured sprites; two minutes on two CPU cores",
    expected="FG-ARI 0.935 ± 0.006, best of 8 restarts 0.962; colour components 0.996 (5 seeds, results/)",
    data="sprites",
    resolution=64,
    num_slots=6,
    steps=1200,
    low_resolution_steps=100,
    **SEARCH,
)

folder = SpatialBiasDiscovery(
    name="folder",
    description="Your own images: --data-path FOLDER; without labels the only score is the MSE",
    data="folder",
    resolution=64,
    num_slots=7,
    steps=2000,
    **SEARCH | {"decay_half_life": 0},  # a cosine: the useful number of steps depends on the images
)

PAPER: dict[str, Any] = dict(steps=500_000, evaluate_every=5000, precision="float32")
"""The paper's schedule (appendix E) and precision; other fields are defaults."""

tetrominoes_paper = Discovery(
    name="tetrominoes-paper",
    description="The paper's model and schedule for Tetrominoes; for a GPU",
    data="tetrominoes",
    resolution=35,
    num_slots=4,
    **PAPER,
)

tetrominoes_unmodified = Unmodified(
    name="tetrominoes-unmodified",
    description="The paper's model for Tetrominoes, unmodified; 20 minutes on one CPU core",
    expected="FG-ARI 0.946 ± 0.013; colour components 0.967 (5 seeds, results/)",
    data="tetrominoes",
    resolution=35,
    num_slots=4,
    steps=6000,
    low_resolution_steps=1000,
    restart_step=6000,
    **FAST | dict(learning_rate=3e-3, warmup_steps=50, ema_decay=0.99),
)

sprites_paper = Discovery(
    name="sprites-paper",
    description="The paper's model and schedule for Multi-dSprites, on generated sprites; for a GPU",
    data="sprites",
    resolution=64,
    num_slots=6,
    **PAPER,
)

clevr6_like = SlotFrameDiscovery(
    name="clevr6-like",
    description="Rendered CLEVR-like scenes of 3 to 6 objects: --data-path FOLDER; on two CPU cores",
    expected="FG-ARI 0.938 ± 0.002, best of 8 restarts 0.950; colour components 0.851 (5 seeds, results/)",
    data="clevr-like",
    min_objects=3,
    max_objects=6,
    resolution=64,
    num_slots=7,
    steps=1200,
    low_resolution_steps=600,
    chromaticity=True,
    spatial_bias=1.5,
    **SEARCH,
)
"""Rendered scenes: `objecthood data render clevr --out FOLDER`, `objecthood train clevr6-like --data-path
FOLDER`."""

clevr6_paper = PaperClevr(
    name="clevr6-paper",
    description="The paper's CLEVR6, published file after `objecthood data convert --crop`; for a GPU",
    data="multi-object",
    max_objects=6,
    resolution=128,
    num_slots=7,
    **PAPER,
)
