"""The contract of a slot model: what prediction, diagnosis, export, the demo and videos ask of every model.

To add a model, subclass `SlotModel` and write `segment`; `image_size`, and without a `grouping` also
`num_slots`, `slot_dim` and `iterations`, say the rest. Code outside this folder asks the contract and never
for the class of a model.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from objecthood.models.placement import Fit, Placement, place
from objecthood.nn import ConvEncoder, Grouping, SoftKMeans
from objecthood.nn.block_matching import Modality, to_modality

WHOLE, MOST, ATTENTION = "reconstruction error", "error of most pixels", "doubt of attention"
"""Measures of `SlotModel.anomaly_score`."""


class SlotOutput(NamedTuple):
    """What a model finds in a batch of images; None where a model has no such thing."""

    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots grid_height grid_width"]
    """Softmax over slots, of every iteration, on the feature grid."""
    masks: Float[Tensor, "batch slots height width"] | None = None
    """Where each slot is seen, at the model's image size; sums to 1 over slots. None where slots are not
    trained to segment (set prediction): the attention is then all that is known of their place."""
    reconstruction: Float[Tensor, "batch 3 height width"] | None = None
    """The decoded image, in [0, 1] units (not clamped)."""
    appearance: Float[Tensor, "batch slots 3 height width"] | None = None
    """The decoded image of each slot, in [0, 1] units (not clamped)."""
    properties: Float[Tensor, "batch slots properties"] | None = None
    """Predicted properties of each slot, in [0, 1]."""

    def found(self) -> dict[str, Tensor]:
        """The fields that are there, by name."""
        return {name: values for name, values in self._asdict().items() if values is not None}


class ExportStages(NamedTuple):
    """The modules of a model in the order in which they run (`objecthood.export.stages`)."""

    input_transform: Callable[[Tensor], Tensor]
    """Images in [0, 1] to the encoder's input."""
    encoder: nn.Module
    grouping: Grouping
    readout: nn.Module | None = None
    """Slots, normalised inputs and the last attention to the slots that are decoded."""
    decoder: nn.Module | None = None
    """Slots and attention to appearance and mask logits."""
    head: nn.Module | None = None
    """Slots to logits of properties."""


class SlotModel(nn.Module, abc.ABC):
    """Images in [0, 1] to slots; a model scales its input itself.

    Attributes:
        image_size: height and width of the images that go in, in pixels.
        feature_grid: rows and columns of the features that slots compete for.
        fit: how `preprocess` treats images of another aspect ratio.
        result_kind: "masks" where the output has masks, "objects" where it has properties of CLEVR's objects.
        modality: "frame", or "motion" where the images are motion fields.
        any_size: whether images of any size go in, one at a time where sizes differ; `image_size` is then
            nominal.
        tracks: whether slots persist over the frames of a video (`step`).
        restarts: of `segment`, unless a call names a number.
        recipe, usual: of loaded weights, their recipe and what `out_of_distribution.calibration` measured.

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
    tracks = False
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
        """Slots of `images` ([0, 1], of `image_size`); numbers are the model's own unless given.

        Args:
            restarts: how often slots start anew, where that makes a difference (`restarts_differ`); of each
                image the best start is returned.
            noise: standard normal, what slots start from, and with it the number of restarts; drawn from the
                global generator unless given.
        """

    @property
    def num_slots(self) -> int:
        """Slots used when a call names no number."""
        return self.grouping.num_slots

    @property
    def slot_dim(self) -> int:
        """Size of a slot."""
        return self.grouping.slot_dim

    @property
    def iterations(self) -> int:
        """Iterations of slot attention when a call names no number."""
        return self.grouping.iterations

    @property
    def resolution(self) -> int:
        """Side of square images, in pixels; ValueError where `image_size` is not square."""
        height, width = self.image_size
        if height != width:
            raise ValueError(
                f"`image_size` (={height}, {width}) is not square; use it in place of `resolution`"
            )
        return height

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((weight.device for weight in self.parameters()), torch.device("cpu"))

    @property
    def restarts_differ(self) -> bool:
        """Whether restarts differ from each other, and the model can choose the best."""
        return False

    def preprocess(
        self, image: UInt8[np.ndarray, "height width 3"], fit: Fit | None = None
    ) -> tuple[Float[Tensor, "3 rows columns"], Placement]:
        """An image of any size as the model takes it, in [0, 1], and the way back for masks
        (`Placement.restore`); `fit` is the model's own unless given."""
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
        """The output for the next frame of a video, and the state for the one after it: here every frame is
        an image of its own.

        The first frame has no `state`; `following` is the frame after this one, None at the end.
        """
        start = None if noise is None else noise[None]
        return self.segment(frame, num_slots, iterations, 1, start), None

    def anomaly_score(
        self, images: Float[Tensor, "batch 3 height width"], output: SlotOutput
    ) -> dict[str, Float[Tensor, " batch"]]:
        """How badly the model does on `images`, by measure; higher is worse.

        With a reconstruction, in [-1, 1] units: its mean squared error, as the score `mse`; and the squared
        error that three quarters of the pixels stay below, each channel's mean error taken out, which ignores
        a single wrong object and a background of another shade, but not texture everywhere. Else the mean
        over the grid of 1 - the largest attention in the last iteration: 0 where every feature belongs to
        one slot.
        """
        if output.reconstruction is None:
            return {ATTENTION: 1 - output.attention[:, -1].amax(dim=1).mean(dim=(1, 2))}
        error = 2 * (output.reconstruction - images)
        centred = (error - error.mean(dim=(2, 3), keepdim=True)).square().mean(dim=1)
        return {
            WHOLE: error.square().mean(dim=(1, 2, 3)),
            MOST: centred.flatten(1).quantile(0.75, dim=1),
        }

    def export_stages(self) -> ExportStages:
        """The model's modules for export and the demo; ValueError where it is not made of such stages."""
        raise ValueError(
            f"a {type(self).__name__} cannot be exported: it has no stages; take weights of `objecthood list`"
        )

    def _restart_noise(
        self, restarts: int | None, noise: Float[Tensor, "restarts batch slots slot_dim"] | None
    ) -> Sequence[Tensor | None]:
        """The noise of each restart of `segment`, None where it is to be drawn."""
        starts = [None] * (self.restarts if restarts is None else restarts) if noise is None else [*noise]
        if not starts:
            raise ValueError(
                "`noise` must be [restarts, batch, slots, dim] of at least one restart; got none"
            )
        return starts


class ClipModel(SlotModel):
    """What models of video share: their input modality, and the features that slots compete for.

    Args:
        encoder: images in [-1, 1] to features on a grid.
        grouping: features of the first frame to slots.
        resolution: side of the square frames, in pixels.
        later_iterations: of slot attention, in every frame but the first where slots are handed on.
        modality: "frame", or "motion" found by matching.
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
        """The encoder's input, in [0, 1]: the frames, or their motion as images."""
        return to_modality(frames, self.modality)

    def features(
        self, seen: Float[Tensor, "frames 3 height width"]
    ) -> Float[Tensor, "frames grid_height grid_width dim"]:
        """What slot attention groups."""
        return self.encoder((2 * seen - 1).contiguous(memory_format=torch.channels_last))
