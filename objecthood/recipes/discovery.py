"""Object discovery (Locatello et al. 2020, section 4.1): reconstruct pictures, score the masks.

The exact recipes have the paper's model, optimiser, schedule and batch. The fast ones are for two CPU cores:
Muon, learned slots with bi-level gradient, averaged weights, cheaper encoders and decoders; `sprites` also
changes the model (attention-guided masks, compact and distinct slots) and is not the paper's method, nor are
`tetrominoes-guided` and `clevr6-like`, which share its search and schedule.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from objecthood import losses, metrics
from objecthood.data.generated.sprites import Background
from objecthood.data.randomness import several_starts
from objecthood.data.scene import Dataset, Scenes
from objecthood.models import autoencoder
from objecthood.models.autoencoder import Discovery as Output
from objecthood.models.autoencoder import SlotAutoencoder
from objecthood.nn import SLOT_MODULES
from objecthood.nn.attention_bias import grow_repulsion
from objecthood.recipes.base import FAST, Recipe
from objecthood.recipes.sources import Source, fit_of, open_dataset, scenes_in_words
from objecthood.visualize import animation, figures


@dataclasses.dataclass(frozen=True, kw_only=True)
class Discovery(Recipe):
    """The paper's model and training on one of the data sets below."""

    data: str
    """"tetrominoes", "sprites" (made on the spot), or, in `data_path`, "folder" (pictures), "clevr-like"
    (rendered here), "multi-object" (converted), "clevr", "clevrtex", "coco" ("coco-stored" or
    "coco-upright" where images have an EXIF orientation: which pixels are annotated)."""
    data_path: str = ""
    min_objects: int = 0
    """Scenes with fewer are left out, where the data says how many there are."""
    max_objects: int = 10
    background: Background = "grey"
    """Of sprites: "grey" or "coloured"."""
    resolution: int
    slot_module: str = "slot-attention"
    """What groups features into slots: "slot-attention", "soft-k-means" or "slot-mlp"."""
    num_slots: int
    test_iterations: int = 3
    starts: int = 1
    """Restarts of each test image, of which the one of lowest reconstruction error is scored too, beside the
    first. With more than one, noise is added to learned slots, in training too."""

    main_score = "fg_ari"
    least = Recipe.least | {"resolution": 8, "num_slots": 1, "test_iterations": 1, "starts": 1}
    choices: ClassVar[dict[str, Any]] = {"slot_module": SLOT_MODULES}

    def build_model(self) -> SlotAutoencoder:
        if self.resolution == 128:
            return autoencoder.clevr(self.num_slots, 128, self.slot_module)
        return autoencoder.small_picture(self.resolution, self.num_slots, self.slot_module)

    def dataset(self, split: str) -> Dataset:
        return open_dataset(self.data, self.source(split))

    def source(self, split: str) -> Source:
        """Where the scenes of a split come from."""
        return Source(
            path=self.data_path,
            split=split,
            # The test set is the same for every seed, so that seeds are compared on the same pictures.
            seed=self.seed if split == "train" else 0,
            resolution=self.resolution,
            background=self.background,
            objects=(self.min_objects, self.max_objects),
        )

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        return self.error(model, scenes["image"])

    def error(self, model: SlotAutoencoder, images: Tensor, iterations: int | None = None) -> Tensor:
        """How far the picture that slots paint together is from `images`."""
        return losses.reconstruction_error(model.reconstruct(images, iterations), images, model.view)

    def scores(self, model: SlotAutoencoder, scenes: Scenes, indices: Tensor) -> dict[str, Tensor]:
        """Scores of one restart; with several `starts`, of the best of them as well: `fg_ari_best_of_8`."""
        images = scenes["image"]
        scores = self.scores_of(self.discover(model, images, indices, starts=1), scenes)
        if self.starts > 1:
            best = self.scores_of(self.discover(model, images, indices), scenes)
            scores |= {f"{name}_best_of_{self.starts}": value for name, value in best.items()}
        return scores

    def scores_of(self, output: Output, scenes: Scenes) -> dict[str, Tensor]:
        """Mean squared error, and the scores of masks where the scenes have true ones."""
        error = 4 * (output.reconstruction - scenes["image"]).square().mean(dim=(1, 2, 3))
        return {"mse": error.double()} | self.mask_scores(scenes, output.masks)

    def mask_scores(self, scenes: Scenes, masks: Tensor) -> dict[str, Tensor]:
        true_masks = scenes.get("masks")
        if true_masks is None:
            return {}
        return {
            "fg_ari": metrics.adjusted_rand_index(true_masks, masks, ignore_background=True),
            "ari": metrics.adjusted_rand_index(true_masks, masks, ignore_background=False),
            "mbo": metrics.mean_best_overlap(true_masks, masks),
            "miou": metrics.mean_iou(true_masks, masks),
        }

    def discover(
        self, model: SlotAutoencoder, images: Tensor, indices: Tensor, starts: int | None = None
    ) -> Output:
        """The model's output for held-out images, with test iterations, from noise fixed by the index: of
        `starts` restarts (the recipe's, unless given) the one of lowest reconstruction error."""
        starts = self.starts if starts is None else starts
        noise = several_starts(np.asarray(indices), starts, model.num_slots, model.slot_dim)
        found = model.segment(images, iterations=self.test_iterations, noise=noise.to(images.device)).found()
        return Output(**found)

    def picture(self, model: SlotAutoencoder, scenes: Scenes) -> Image.Image:
        images = scenes["image"]
        scene = self.discover(model, images, torch.arange(len(images)))
        return figures.slots_figure(images, scene.reconstruction, scene.masks, scene.appearance)

    def figures(self, model: SlotAutoencoder, scenes: Scenes) -> dict[str, Image.Image | list[Image.Image]]:
        image = scenes["image"][:1]
        attention = self.discover(model, image, torch.arange(1)).attention[0]
        return {
            "slots": self.picture(model, scenes),
            "attention": figures.attention_figure(image[0], attention),
            "attention-animated": animation.attention_frames(image[0], attention),
        }

    def prepare_for_test(self, model: SlotAutoencoder) -> SlotAutoencoder:
        model.grouping.iterations, model.restarts = self.test_iterations, self.starts
        model.fit = fit_of(self.data)
        return model.eval()

    @property
    def protocol(self) -> str:
        how = f"{self.test_iterations} iterations, {self.num_slots} slots, one restart"
        n = self.starts
        best = f"best_of_{n}: of {n} restarts the one of lowest reconstruction error; " if n > 1 else ""
        units = "mse in [-1, 1] units; mean over images"
        if self.data == "folder":
            kept = (
                f"images of the folder kept out of training (at most {self.test_scenes}; 5 % of it by a hash "
                "of their paths; of a folder too small for that, images of training)"
            )
            return f"{kept}, {how}; {best}{units}; no masks, so no other score"
        kind = scenes_in_words(self.data, self.source("test"))
        return (
            f"{self.test_scenes} {kind} held out, {how}, "
            "argmax of decoder masks; fg_ari: adjusted Rand index without true background pixels; ari: with "
            "them; mbo: mean best overlap of objects; miou: mean overlap of objects matched one to one; "
            f"{best}{units}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaperClevr(Discovery):
    """The paper's CLEVR model, at any resolution that is a multiple of 16."""

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.clevr(self.num_slots, self.resolution, self.slot_module)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FastTetrominoes(Discovery):
    """A variant: strided encoder, patch decoder, learned slots with bi-level gradient (BO-QSA)."""

    later_kernels: int = 5
    """Side of the encoder's convolutions after the first."""
    last_kernel: int = 3
    """Side of the decoder's last convolution, which paints."""

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.fast_tetrominoes(
            self.num_slots, self.later_kernels, self.last_kernel, self.slot_module
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LowResolutionWarmup(Discovery):
    """A variant whose training begins at half the resolution, with the same weights."""

    coarse_steps: int = 0
    """Steps at the beginning that see images at half the resolution, at a quarter to half of the cost."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.coarse_steps and self.resolution % 8:
            raise ValueError(
                f"`resolution` (={self.resolution}) must be a multiple of 8, to be halved; or leave "
                "coarse_steps at 0"
            )

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        images = scenes["image"]
        if step < self.coarse_steps:
            model, images = self.coarse(model), F.avg_pool2d(images, 2)
        return self.error(model, images, self.train_iterations(step))

    def train_iterations(self, step: int) -> int | None:
        """Of slot attention in a step; None: as the model was built."""
        return None

    def coarse(self, model: SlotAutoencoder) -> SlotAutoencoder:
        """The model at half the resolution, all weights shared."""
        half = dataclasses.replace(self, resolution=self.resolution // 2, coarse_steps=0)
        return model.twin(half.resolution, lambda _: half.build_model())


MODEL_FIELDS = (
    *("num_slots", "resolution", "slot_module", "compactness", "repulsion"),
    *("rehome", "without_shading", "second_kernel", "early_prior"),
)
"""Fields of `GuidedDiscovery` that are arguments of its model, of the same name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedDiscovery(LowResolutionWarmup):
    """A variant for coloured things on a background: slots that are compact and distinct, masks born from
    attention."""

    compactness: float = 1.0
    """Weight of each slot's Gaussian between iterations; 0: none."""
    repulsion: float = 15.0
    """What a slot loses that shares one thing with a heavier one; 0: none."""
    repulsion_start: int = 300
    """Step from which repulsion grows, to its full weight 200 steps later."""
    rehome: bool = True
    """Whether an empty slot is handed one of two things that another holds."""
    without_shading: bool = False
    """Whether pictures are seen and compared by chromaticity (`nn.color_transforms.shading_free`)."""
    attention_guided: bool = True
    """Whether the logarithm of the last attention is added to mask logits."""
    second_kernel: int = 5
    """Side of the encoder's second convolution."""
    early_prior: bool = False
    """Whether slots are compact and distinct from the beginning of an iteration on, the first included, and
    exchanged where none is empty; steps then take 2 and 3 iterations in turn."""

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.fast_sprites(attention_guided=self.attention_guided, **self.model_options)

    @property
    def model_options(self) -> dict[str, Any]:
        """Arguments of `fast_sprites` and `fast_painted` alike."""
        named = {name: getattr(self, name) for name in MODEL_FIELDS}
        return named | {"spread": 0.5 if self.starts > 1 else 0.0}  # one restart needs no noise

    def loss(self, model: SlotAutoencoder, scenes: Scenes, step: int) -> Tensor:
        grow_repulsion(model.grouping.slot_attention.prior, step, self.repulsion_start)
        return super().loss(model, scenes, step)

    def train_iterations(self, step: int) -> int | None:
        return 2 + step % 2 if self.early_prior else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class PaintedDiscovery(GuidedDiscovery):
    """A variant for things of one kind in many places: slots are seen and painted from their own centre
    (`nn.slot_frames`), and must paint their masks by themselves, too.

    Masks guided by the attention may have any shape, so that two objects of one colour make one mask. Here
    a second picture is made of the same paintings, with masks that a slot knows from itself alone, and its
    error counts too: what one slot cannot paint, it had better not hold.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.attention_guided:
            raise ValueError(
                "`attention_guided` (=False) must be True here, where masks are painted both ways; for masks "
                "without attention take a recipe of class GuidedDiscovery"
            )

    def build_model(self) -> SlotAutoencoder:
        return autoencoder.fast_painted(**self.model_options)

    def error(self, model: SlotAutoencoder, images: Tensor, iterations: int | None = None) -> Tensor:
        painting = model.paint(model.encode(images), iterations=iterations)[0]
        assert painting.own_logits is not None  # the decoder is a guided one
        error, of_own = (
            losses.reconstruction_error(model.compose(painting.appearance, logits)[0], images, model.view)
            for logits in (painting.mask_logits, painting.own_logits)
        )
        return error + of_own


tetrominoes = FastTetrominoes(
    name="tetrominoes",
    description="Three tetrominoes an image, made on the spot, by a fast variant; minutes on two CPU cores",
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
    matrix_learning_rate=0.02,
    halving_steps=300,
    repulsion_start=50,
    second_kernel=3,
    early_prior=True,
    test_iterations=5,
    starts=8,
    evaluate_every=200,
)
"""What the recipes that follow share: all but the data, how long they learn, and what is known of shapes."""

tetrominoes_guided = PaintedDiscovery(
    name="tetrominoes-guided",
    description="Tetrominoes and background, by a variant that learns shapes; two minutes on two CPU cores",
    expected="FG-ARI 0.978 ± 0.001, best of 8 restarts 0.989; colour components 0.967 (5 seeds, results/)",
    data="tetrominoes",
    resolution=35,
    num_slots=4,
    steps=2000,
    repulsion=0.0,
    **SEARCH | {"halving_steps": 0, "average": 0.998},  # the last half of a per cent needs a smooth end
)

sprites = GuidedDiscovery(
    name="sprites",
    description="Overlapping coloured sprites, made on the spot; two minutes on two CPU cores",
    expected="FG-ARI 0.935 ± 0.006, best of 8 restarts 0.962; colour components 0.996 (5 seeds, results/)",
    data="sprites",
    resolution=64,
    num_slots=6,
    steps=1200,
    coarse_steps=100,
    **SEARCH,
)

folder = GuidedDiscovery(
    name="folder",
    description="Your own pictures: --data-path PICTURES; without labels the only score is the error",
    data="folder",
    resolution=64,
    num_slots=7,
    steps=2000,
    **SEARCH | {"halving_steps": 0},  # a cosine: what more steps are worth depends on the pictures
)

PAPER: dict[str, Any] = dict(steps=500_000, evaluate_every=5000)
"""The paper's schedule (appendix E); the rest are defaults."""

tetrominoes_paper = Discovery(
    name="tetrominoes-paper",
    description="The paper's model and schedule for Tetrominoes; for a GPU",
    data="tetrominoes",
    resolution=35,
    num_slots=4,
    **PAPER,
)

sprites_paper = Discovery(
    name="sprites-paper",
    description="The paper's model and schedule for Multi-dSprites, on generated sprites; for a GPU",
    data="sprites",
    resolution=64,
    num_slots=6,
    **PAPER,
)

clevr6_like = PaintedDiscovery(
    name="clevr6-like",
    description="CLEVR-like scenes of 3 to 6 objects, rendered here: --data-path FOLDER; on two CPU cores",
    expected="FG-ARI 0.938 ± 0.002, best of 8 restarts 0.950; colour components 0.851 (5 seeds, results/)",
    data="clevr-like",
    min_objects=3,
    max_objects=6,
    resolution=64,
    num_slots=7,
    steps=1200,
    coarse_steps=600,
    without_shading=True,
    compactness=1.5,
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
