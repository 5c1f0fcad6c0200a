"""Object discovery: an image is encoded, grouped into slots, and painted again slot by slot.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), section 3.1
and appendix E.3. The sum of what the slots paint, weighted by their masks, must equal the image; nothing
else is asked.

Differences from the paper: none in `clevr`, `sprites` and `tetrominoes`. The `fast_` relatives have strided
encoders and patch decoders, at about a tenth of the cost; see `nn.decoders` and `nn.attention_bias` for what
else they may switch on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from objecthood.models.base import ExportStages, SlotModel, SlotOutput
from objecthood.nn import (
    SLOT_MODULES,
    ConvEncoder,
    GaussianSlots,
    Grouping,
    LearnedSlots,
    PatchDecoder,
    SlotModuleOptions,
    SpatialBias,
    SpatialBroadcastDecoder,
)
from objecthood.nn.color_transforms import color_and_chromaticity, opponent_chromaticity, symmetric
from objecthood.nn.decoders import DecoderOutput
from objecthood.nn.encoders import check_images
from objecthood.nn.frozen import share_weights
from objecthood.nn.precision import at_least_float32
from objecthood.nn.slot_frames import SlotCentredPatchDecoder, SlotFrameReadout
from objecthood.runtime import renamed

Decoder: TypeAlias = SpatialBroadcastDecoder | PatchDecoder | SlotCentredPatchDecoder


class AutoencoderOutput(NamedTuple):
    """What a discovery model makes of a batch of images."""

    reconstruction: Float[Tensor, "batch 3 height width"]
    """Sum of masks * appearance, in [0, 1] units (not clamped)."""
    appearance: Float[Tensor, "batch slots 3 height width"]
    """What each slot paints, in [0, 1] units (not clamped)."""
    masks: Float[Tensor, "batch slots height width"]
    """Where each slot is seen; sums to 1 over slots."""
    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots grid_height grid_width"]
    """Softmax over slots, of every iteration, on the encoder's grid."""


class SlotAutoencoder(SlotModel):
    """Encoder, grouping and decoder; images in [0, 1] go in, a `AutoencoderOutput` comes out.

    Args:
        encoder: images in [-1, 1] to features on a grid (`ConvEncoder`).
        grouping: features to slots (`Grouping`).
        decoder: slots and their last attention to a `DecoderOutput` in [-1, 1] units, as large as
            `decoder.resolution`.
        view: what the encoder sees of an image in [0, 1], and in which reconstructions are compared (see
            `nn.color_transforms`; the paper's: [-1, 1] units).
        reading: what slots are told at the end of what they hold (`nn.slot_frames`; the paper's: nothing).
        unconditioned_masks: whether a guided decoder is trained to paint by the masks that slots know by themselves,
            too: these then choose among starts.

    Example:
        >>> import torch
        >>> from objecthood.models import autoencoder
        >>> model = autoencoder.fast_tetrominoes()
        >>> scene = model(torch.rand(2, 3, 35, 35), num_slots=5, iterations=7)
        >>> scene.masks.shape, scene.attention.shape
        (torch.Size([2, 5, 35, 35]), torch.Size([2, 7, 5, 18, 18]))
    """

    encoder: ConvEncoder
    grouping: Grouping
    decoder: Decoder

    def __init__(
        self,
        encoder: ConvEncoder,
        grouping: Grouping,
        decoder: Decoder,
        input_transform: Callable[..., Tensor] = symmetric,
        readout: SlotFrameReadout | None = None,
        unconditioned_masks: bool = False,
    ):
        super().__init__()
        self.image_size = decoder.resolution, decoder.resolution
        self.feature_grid = encoder.grid(self.image_size)
        self.encoder, self.grouping, self.decoder, self.input_transform = (
            encoder,
            grouping,
            decoder,
            input_transform,
        )
        self.readout, self.unconditioned_masks = readout, unconditioned_masks
        self.copies: dict[int, SlotAutoencoder] = {}  # by resolution; no part of this model's state

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> AutoencoderOutput:
        """Find objects in `images` ([0, 1]); number of slots and iterations as built unless named.

        `noise` (standard normal) is what Gaussian slots start from; drawn unless given.
        """
        return self.output(*self.decode(self.encode(images), num_slots, iterations, noise))

    def encode(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch grid_height grid_width feature_dim"]:
        """Features of `images` in [0, 1], for slots to compete for."""
        check_images(images, self.resolution)
        features: Tensor = self.encoder(
            self.input_transform(images).contiguous(memory_format=torch.channels_last)
        )
        return features

    def decode(
        self,
        features: Float[Tensor, "batch grid_height grid_width feature_dim"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> tuple[
        DecoderOutput,
        Float[Tensor, "batch slots slot_dim"],
        Float[Tensor, "batch iterations slots grid_height grid_width"],
    ]:
        """What slots paint of images that were encoded, in the decoder's units, with slots and attention;
        the other arguments as `forward`'s."""
        grid = features.shape[1:3]
        slots, attention = self.grouping(features.flatten(1, 2), num_slots, iterations, noise=noise)
        attention = attention.unflatten(-1, grid)
        if self.readout is not None:
            inputs = self.grouping.slot_attention.norm_inputs(features.flatten(1, 2))
            slots = self.readout(slots, inputs, attention[:, -1])
        return self.decoder(slots, attention[:, -1]), slots, attention

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`; the best restart is the one of lowest `decoding_error`."""
        noises = self._restart_noise(restarts, noise)
        features = self.encode(images)
        best: AutoencoderOutput | None = None
        for one in noises:
            decoded, slots, attention = self.decode(features, num_slots, iterations, one)
            found = self.output(decoded, slots, attention)
            if len(noises) == 1:
                best = found
                break
            error = self.decoding_error(images, decoded, found)
            if best is None:
                best, least = found, error
                continue
            better = error < least
            least = torch.minimum(least, error)
            best = AutoencoderOutput(
                *(
                    torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
                    for new, old in zip(found, best, strict=True)
                )
            )
        assert best is not None
        return SlotOutput(**best._asdict())

    @property
    def restarts_differ(self) -> bool:
        """Whether slots start from noise."""
        initial = self.grouping.initial_slots
        return isinstance(initial, GaussianSlots) or initial.noise_scale > 0

    def export_stages(self) -> ExportStages:
        return ExportStages(self.input_transform, self.encoder, self.grouping, self.readout, self.decoder)

    def decoding_error(
        self, images: Float[Tensor, "batch 3 height width"], painting: DecoderOutput, scene: AutoencoderOutput
    ) -> Float[Tensor, " batch"]:
        """How far what slots paint together is from `images`: mean squared error, in [0, 1] units.

        By the masks that slots know by themselves where these are trained (`unconditioned_masks`): guided by attention,
        masks paint two things of one colour as well as one.
        """
        own = painting.unconditioned_logits if self.unconditioned_masks else None
        painted = scene.reconstruction if own is None else self.composite(painting.appearance, own)[0]
        return (painted - images).square().mean(dim=(1, 2, 3))

    def output(
        self,
        painting: DecoderOutput,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch iterations slots grid_height grid_width"],
    ) -> AutoencoderOutput:
        """What `paint` gives, as `forward` returns it."""
        reconstruction, masks = self.composite(painting.appearance, painting.mask_logits)
        appearance = from_symmetric(at_least_float32(painting.appearance))
        return AutoencoderOutput(reconstruction, appearance, masks, slots, attention)

    def reconstruct(
        self, images: Float[Tensor, "batch 3 height width"], iterations: int | None = None
    ) -> Float[Tensor, "batch 3 height width"]:
        """The image that slots paint together, in [0, 1] units: all that training looks at."""
        painting = self.decode(self.encode(images), iterations=iterations)[0]
        return self.composite(painting.appearance, painting.mask_logits)[0]

    def at_resolution(self, resolution: int, build: Callable[[int], SlotAutoencoder]) -> SlotAutoencoder:
        """This model for images of another side: all weights and buffers are the same tensors, those of
        frozen parts included.

        `build` makes it for a resolution, with weights of the same shapes; it is asked once.

        Example:
            >>> import torch
            >>> model = fast_sprites(resolution=64)
            >>> small = model.at_resolution(32, lambda side: fast_sprites(resolution=side))
            >>> small(torch.rand(1, 3, 32, 32)).masks.shape
            torch.Size([1, 6, 32, 32])
            >>> small.encoder.convolutions[0].weight is model.encoder.convolutions[0].weight
            True
        """
        if resolution not in self.copies:
            with torch.random.fork_rng(devices=[]):
                at_resolution = build(resolution).to(next(self.parameters()).device)
            at_resolution.load_state_dict(self.state_dict(keep_vars=True), assign=True)
            share_weights(self, at_resolution)
            self.copies[resolution] = at_resolution
        return self.copies[resolution]

    def composite(
        self,
        appearance: Float[Tensor, "batch slots 3 height width"],
        mask_logits: Float[Tensor, "batch slots height width"],
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch slots height width"]]:
        """The image, in [0, 1] units, that paintings make together, and the masks by which they do."""
        masks = at_least_float32(mask_logits).softmax(dim=1)
        reconstruction = (masks[:, :, None] * at_least_float32(appearance)).sum(dim=1)
        return from_symmetric(reconstruction), masks


def from_symmetric(image: Tensor) -> Tensor:
    """[-1, 1] units to [0, 1], in one pass over memory."""
    return torch.add(image.new_full((), 0.5), image, alpha=0.5)  # full: born on the device, nothing is sent


def clevr(num_slots: int = 7, resolution: int = 128, slot_module: str = "slot-attention") -> SlotAutoencoder:
    """The paper's model for CLEVR (128 x 128 there; 890,308 parameters at any resolution).

    Other resolutions keep every layer: the grid that slots are broadcast to is a sixteenth of the image.
    Another `slot_module` (`nn.SLOT_MODULES`) is a variant.
    Raises ValueError where `resolution` is no multiple of 16.
    """
    if resolution < 16 or resolution % 16:
        raise ValueError(
            f"`resolution` (={resolution}) must be a multiple of 16: the decoder doubles it four times"
        )
    return SlotAutoencoder(
        ConvEncoder(channels=64, feature_dim=64, strides=(1, 1, 1, 1)),
        gaussian_grouping(num_slots, resolution, slot_module),
        SpatialBroadcastDecoder(
            64,
            grid=resolution // 16,
            channels=(64,) * 5,
            strides=(2, 2, 2, 2, 1, 1),
            kernels=(5, 5, 5, 5, 5, 3),
        ),
    )


def sprites(num_slots: int = 6) -> SlotAutoencoder:
    """The paper's model for Multi-dSprites at 64 x 64."""
    return small_image(64, num_slots)


def tetrominoes(num_slots: int = 4) -> SlotAutoencoder:
    """The paper's model for Tetrominoes at 35 x 35."""
    return small_image(35, num_slots)


def small_image(resolution: int, num_slots: int, slot_module: str = "slot-attention") -> SlotAutoencoder:
    """The paper's model for small images: 32 channels, slots broadcast to every pixel."""
    return SlotAutoencoder(
        ConvEncoder(channels=32, feature_dim=64, strides=(1, 1, 1, 1)),
        gaussian_grouping(num_slots, resolution, slot_module),
        SpatialBroadcastDecoder(
            64, grid=resolution, channels=(32, 32, 32), strides=(1, 1, 1, 1), kernels=(5, 5, 5, 3)
        ),
    )


def fast_tetrominoes(
    num_slots: int = 4, later_kernels: int = 5, last_kernel: int = 3, slot_module: str = "slot-attention"
) -> SlotAutoencoder:
    """A relative of `tetrominoes` at a tenth of its cost: 18 x 18 features, 7 x 7 patches of 5 x 5, learned
    slots. `later_kernels` are the encoder's after the first, `last_kernel` is the decoder's."""
    options = SlotModuleOptions(num_slots, (18, 18), 64, 64, gradient="bilevel")
    return SlotAutoencoder(
        ConvEncoder(channels=32, feature_dim=64, strides=(2, 1, 1), kernel=(5, later_kernels, later_kernels)),
        Grouping(LearnedSlots(num_slots, 64), SLOT_MODULES[slot_module](options)),
        PatchDecoder(64, grid=7, patch=5, channels=64, depth=2, kernel=3, last_kernel=last_kernel),
    )


@renamed.arguments
def fast_sprites(
    num_slots: int = 6,
    resolution: int = 64,
    spatial_bias: float = 1.0,
    merge_penalty: float = 15.0,
    split_slots: bool = False,
    attention_conditioned_masks: bool = True,
    chromaticity: bool = False,
    second_kernel: int = 5,
    bias_before_attention: bool = False,
    noise_scale: float = 0.0,
    slot_module: str = "slot-attention",
) -> SlotAutoencoder:
    """A variant for things on a background: 32 x 32 features at 64 pixels, independent patches of 4 x 4.

    `spatial_bias`, `merge_penalty` and `split_slots` are those of `SpatialBias` (all off: none), `bias_before_attention` is that
    of `SlotAttention`, `noise_scale` that of `LearnedSlots`, `attention_conditioned_masks` that of `PatchDecoder`,
    `chromaticity` chooses the view, `second_kernel` is the side of the encoder's second one, `slot_module`
    is one of `nn.SLOT_MODULES`. `resolution` is a multiple of 4.
    """
    return SlotAutoencoder(
        ConvEncoder(channels=32, feature_dim=64, strides=(2, 1), kernel=(5, second_kernel)),
        biased_grouping(
            num_slots,
            resolution,
            spatial_bias,
            merge_penalty,
            split_slots,
            bias_before_attention,
            noise_scale,
            slot_module,
        ),
        PatchDecoder(
            64,
            grid=patches_along(resolution, 4),
            patch=4,
            channels=48,
            depth=2,
            kernel=1,
            attention_conditioned_masks=attention_conditioned_masks,
        ),
        opponent_chromaticity if chromaticity else symmetric,
    )


@renamed.arguments
def fast_slot_frames(
    num_slots: int = 7,
    resolution: int = 64,
    spatial_bias: float = 1.0,
    merge_penalty: float = 15.0,
    split_slots: bool = True,
    chromaticity: bool = False,
    second_kernel: int = 3,
    bias_before_attention: bool = True,
    noise_scale: float = 0.5,
    slot_module: str = "slot-attention",
) -> SlotAutoencoder:
    """A variant for things of one kind in many places, seen and painted from their own centre
    (`nn.slot_frames`), which know their masks by themselves, too. Arguments as `fast_sprites`'.

    With `chromaticity` images are seen and compared both with their shading and without it.
    """
    return SlotAutoencoder(
        ConvEncoder(
            channels=32,
            feature_dim=64,
            strides=(2, 1),
            kernel=(5, second_kernel),
            in_channels=6 if chromaticity else 3,
        ),
        biased_grouping(
            num_slots,
            resolution,
            spatial_bias,
            merge_penalty,
            split_slots,
            bias_before_attention,
            noise_scale,
            slot_module,
        ),
        SlotCentredPatchDecoder(64, resolution=resolution, patch=4),
        color_and_chromaticity if chromaticity else symmetric,
        readout=SlotFrameReadout(64, 64, resolution=resolution),
        unconditioned_masks=True,
    )


def biased_grouping(
    num_slots: int,
    resolution: int,
    spatial_bias: float,
    merge_penalty: float,
    split_slots: bool,
    bias_before_attention: bool = False,
    noise_scale: float = 0.0,
    slot_module: str = "slot-attention",
) -> Grouping:
    """Learned slots with `SpatialBias` over features at half the `resolution`, which are exchanged where it
    is early and none is empty."""
    features = (-(-resolution // 2),) * 2
    attention_bias = None
    if spatial_bias or merge_penalty:
        attention_bias = SpatialBias(
            features, spatial_bias, merge_penalty, split_slots, split_and_merge=bias_before_attention
        )
    options = SlotModuleOptions(
        num_slots, features, 64, 64, attention_bias, bias_before_attention, gradient="bilevel"
    )
    module = SLOT_MODULES[slot_module](options)  # before the slots: a seed gives the weights it always gave
    return Grouping(LearnedSlots(num_slots, 64, noise_scale), module)


def gaussian_grouping(num_slots: int, side: int, slot_module: str) -> Grouping:
    """The paper's initial slots, and a slot module over a square of features."""
    options = SlotModuleOptions(num_slots, (side, side), 64, 64)
    return Grouping(GaussianSlots(num_slots, 64), SLOT_MODULES[slot_module](options))


def patches_along(resolution: int, patch: int) -> int:
    """How many patches of side `patch` lie along `resolution`; ValueError where they do not fit."""
    if resolution % patch or resolution < 2 * patch:
        raise ValueError(f"`resolution` (={resolution}) must be a multiple of {patch}, at least {2 * patch}")
    return resolution // patch


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)
