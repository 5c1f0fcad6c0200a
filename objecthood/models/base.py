"""Interface of slot models, used by prediction, diagnosis, export, the demo and videos.

To add a model, subclass `SlotModel`, write `segment` and set `image_size`; without a `grouping` also set
`num_slots`, `slot_dim` and `iterations`. Code outside this folder does not depend on the class of a model.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from objecthood.models.placement import Fit, Placement, place
from objecthood.nn import ConvEncoder, Grouping, SoftKMeans
from objecthood.nn.block_matching import Modality, to_modality

if TYPE_CHECKING:
    from objecthood.nn.backbones import EfficientNetLite0
    from objecthood.nn.consensus_cut import ConsensusCut
    from objecthood.nn.objectness import ObjectnessHead
    from objecthood.nn.pairwise_affinity import PairwiseAffinity

WHOLE, MOST, ATTENTION = "reconstruction error", "error of most pixels", "doubt of attention"
"""Measures of `SlotModel.anomaly_score`."""


class SlotOutput(NamedTuple):
    """Output of a slot model for a batch of images; None for fields that a model does not have."""

    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots grid_height grid_width"]
    """Softmax over slots of every iteration, on the feature grid."""
    masks: Float[Tensor, "batch slots height width"] | None = None
    """Masks at the model's image size, which sum to 1 over slots; None for set prediction, where only the
    attention localises slots."""
    reconstruction: Float[Tensor, "batch 3 height width"] | None = None
    """The decoded image, in [0, 1] units (not clamped)."""
    appearance: Float[Tensor, "batch slots 3 height width"] | None = None
    """The decoded image of each slot, in [0, 1] units (not clamped)."""
    properties: Float[Tensor, "batch slots properties"] | None = None
    """Predicted properties of each slot, in [0, 1]."""

    def found(self) -> dict[str, Tensor]:
        """The fields that are not None, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}


class ExportStages(NamedTuple):
    """The modules of a model in order of execution (`objecthood.export.stages`)."""

    input_transform: Callable[[Tensor], Tensor]
    """Images in [0, 1] to the encoder's input."""
    encoder: nn.Module
    grouping: Grouping
    readout: nn.Module | None = None
    """Slots, normalised inputs and the last attention to decoder input."""
    decoder: nn.Module | None = None
    """Slots and attention to appearance and mask logits."""
    head: nn.Module | None = None
    """Slots to logits of properties."""


class Embeddings(NamedTuple):
    """What a photograph is divided by (`nn.consensus_cut`)."""

    scales: list[Float[Tensor, "rows columns _"]]
    """Unit embeddings on one grid."""
    objects: Float[Tensor, "rows columns"] | None
    """Probability that a cell belongs to an object; None: not known."""


class SpectralStages(NamedTuple):
    """What `objecthood.export.photographs` writes as graphs, of normalised cuts."""

    backbone: EfficientNetLite0
    sides: tuple[int, ...]
    distance: float
    cut: ConsensusCut
    objectness: ObjectnessHead | None
    embed: Callable[[Tensor], Embeddings]


class AffinityStages(NamedTuple):
    """What `objecthood.export.photographs` writes as graphs, of learned affinity."""

    backbone: EfficientNetLite0
    sides: tuple[int, ...]
    """One scale of the backbone's input."""
    distance: float
    affinity: PairwiseAffinity
    clusters: int
    features: Callable[[Tensor], Tensor]
    """Image [3, height, width] in [0, 1], of any size, to features [rows, columns, dim]."""


PhotographStages = SpectralStages | AffinityStages


class FeatureStages(NamedTuple):
    """What `objecthood.export.feature_slots` writes as a graph."""

    backbone: EfficientNetLite0
    features: Callable[[Tensor], Tensor]
    """Image [3, height, width] in [0, 1], of any size, to features [1, rows, columns, dim]."""
    group: Callable[[Tensor], tuple[Tensor, Tensor]]
    """Features [1, rows, columns, dim] to slots [1, slots, dim] and their attention [1, slots, rows,
    columns]."""
    area: int
    """Pixels of the backbone's input."""


class SlotModel(nn.Module, abc.ABC):
    """Base class of slot models: images in [0, 1] to slots.

    Attributes:
        image_size: height and width of input images, in pixels.
        feature_grid: rows and columns of the features that slots compete for.
        fit: how `preprocess` treats images of another aspect ratio.
        result_kind: "masks", or "objects" for properties of CLEVR's objects.
        modality: input modality: "frame", or "motion" for motion fields as images.
        any_size: whether inputs may have any size, one at a time if sizes differ; `image_size` is then
            nominal.
        clips: whether objects are found in windows of consecutive frames (`motion.clip_objects`).
        tracks: whether slots persist over the frames of a video (`step`).
        selects_restarts: whether `segment` can select the best of several restarts.
        restarts: default number of restarts of `segment`.
        recipe, calibration: of loaded weights, their recipe and the result of
            `out_of_distribution.calibration`.

    Example:
        >>> class Brightness(SlotModel):
        ...     image_size = feature_grid = (16, 16)
        ...     num_slots, slot_dim, iterations = 2, 1, 1
        ...     def segment(self, images, num_slots=None, iterations=None, restarts=None, noise=None):
        ...         bright = images.mean(dim=1, keepdim=True)
        ...         masks = torch.cat([1 - bright, bright], dim=1)
        ...         return SlotOutput(masks.mean(dim=(2, 3))[..., None], masks[:, None], masks)
        >>> image, placement = Brightness().preprocess(np.zeros((20, 40, 3), np.uint8))
        >>> output = Brightness().segment(image[None])
        >>> placement.restore(output.masks[0]).shape
        torch.Size([2, 20, 40])
    """

    image_size: tuple[int, int]
    feature_grid: tuple[int, int]
    grouping: Grouping | SoftKMeans
    fit: Fit = "pad"
    result_kind: Literal["masks", "objects"] = "masks"
    modality: Modality = "frame"
    any_size = False
    clips = False
    tracks = False
    selects_restarts = False
    restarts = 1
    recipe: Any = None
    calibration: Mapping[str, Any] = MappingProxyType({})

    @abc.abstractmethod
    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """Slots and masks of `images`.

        Args:
            images: in [0, 1], of `image_size`.
            num_slots, iterations: the model's defaults unless given.
            restarts: number of restarts; the best one of each image is returned (see `restarts_differ`).
            noise: standard normal noise of the initial slots, one per restart, which sets the number of
                restarts; drawn from the global generator unless given.
        """

    @property
    def num_slots(self) -> int:
        """Default number of slots."""
        return self.grouping.num_slots

    @property
    def slot_dim(self) -> int:
        """Size of a slot."""
        return self.grouping.slot_dim

    @property
    def iterations(self) -> int:
        """Default number of iterations of slot attention."""
        return self.grouping.iterations

    @property
    def resolution(self) -> int:
        """Side of square images in pixels; ValueError if `image_size` is not square."""
        height, width = self.image_size
        if height != width:
            raise ValueError(
                f"`image_size` (={height}, {width}) is not square; use `image_size` instead of `resolution`"
            )
        return height

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next((weight.device for weight in self.parameters()), torch.device("cpu"))

    @property
    def restarts_differ(self) -> bool:
        """Whether initial slots depend on noise and the model can select the best restart."""
        if not self.selects_restarts:
            return False
        return isinstance(self.grouping, Grouping) and self.grouping.depends_on_noise

    def preprocess(
        self, image: UInt8[np.ndarray, "height width 3"], fit: Fit | None = None
    ) -> tuple[Float[Tensor, "3 rows columns"], Placement]:
        """An image of any size as model input in [0, 1], and its placement, which maps masks back
        (`Placement.restore`); `fit` defaults to the model's."""
        pixels, placement = place(image, self.image_size, fit or self.fit)
        return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255), placement

    def step(
        self,
        frame: Float[Tensor, "batch 3 height width"],
        state: Any = None,
        following: Float[Tensor, "batch 3 height width"] | None = None,
        *,
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> tuple[Any, Any]:
        """Output for one frame of a video, and the state for the next; by default frames are independent.

        `state` is None for the first frame; `following` is the next frame, None at the end.
        """
        start = None if noise is None else noise[None]
        return self.segment(frame, num_slots, iterations, 1, start), None

    def anomaly_score(
        self, images: Float[Tensor, "batch 3 height width"], output: SlotOutput
    ) -> dict[str, Float[Tensor, " batch"]]:
        """Out-of-distribution scores of `images`, by measure; higher is less like the training data.

        With a reconstruction, in [-1, 1] units: the mean squared error, as in the score `mse`; and the 75th
        percentile over pixels of the squared error after subtracting each channel's mean error, which ignores
        a single wrong object or another background colour, but not texture. Without a reconstruction: the
        mean over the grid of 1 - the largest attention in the last iteration.
        """
        if output.reconstruction is None:
            return {ATTENTION: 1 - output.attention[:, -1].amax(dim=1).mean(dim=(1, 2))}
        error = 2 * (output.reconstruction - images)
        centred = (error - error.mean(dim=(2, 3), keepdim=True)).square().mean(dim=1)
        return {
            WHOLE: error.square().mean(dim=(1, 2, 3)),
            MOST: centred.flatten(1).quantile(0.75, dim=1),
        }

    def finer(self) -> SlotModel:
        """The same model, which also finds small objects, on a finer grid; ValueError if it has none."""
        raise ValueError("`fine` (=True) needs weights that find small objects apart: photos; omit it")

    def export_stages(self) -> ExportStages | PhotographStages | FeatureStages:
        """The model's modules for export and the demo; ValueError if it has no such stages."""
        raise ValueError(
            f"a {type(self).__name__} cannot be exported: it has no stages; use weights of `objecthood list`"
        )

    def _restart_noise(
        self, restarts: int | None, noise: Float[Tensor, "restarts batch slots slot_dim"] | None
    ) -> Sequence[Tensor | None]:
        """The noise of each restart of `segment`, None to draw it."""
        noises = [None] * (self.restarts if restarts is None else restarts) if noise is None else [*noise]
        if not noises:
            raise ValueError(
                "`noise` must be [restarts, batch, slots, dim] with at least one restart; got none"
            )
        return noises


class ClipModel(SlotModel):
    """Base class of video models.

    Args:
        encoder: images in [-1, 1] to features on a grid.
        grouping: features of the first frame to slots.
        resolution: side of the square frames, in pixels.
        later_iterations: iterations in frames with propagated slots, at least 1.
        modality: "frame", or "motion" by block matching.
    """

    encoder: ConvEncoder

    def __init__(
        self,
        encoder: ConvEncoder,
        grouping: Grouping | SoftKMeans,
        resolution: int,
        later_iterations: int,
        modality: Modality,
    ):
        super().__init__()
        if later_iterations < 1:
            raise ValueError(f"`later_iterations` (={later_iterations}) must be at least 1")
        self.image_size = resolution, resolution
        self.feature_grid = encoder.grid(self.image_size)
        self.encoder, self.grouping = encoder, grouping
        self.later_iterations, self.modality = later_iterations, modality

    def to_modality(
        self, frames: Float[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch time 3 height width"]:
        """The model input in [0, 1]: frames, or their motion fields as images."""
        return to_modality(frames, self.modality)

    def features(
        self, seen: Float[Tensor, "frames 3 height width"]
    ) -> Float[Tensor, "frames grid_height grid_width dim"]:
        """Features for slot attention of inputs in [0, 1]."""
        return self.encoder((2 * seen - 1).contiguous(memory_format=torch.channels_last))
