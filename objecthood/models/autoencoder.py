"""Object discovery: a slot autoencoder, trained by reconstruction alone.

Locatello et al., "Object-Centric Learning with Slot Attention", NeurIPS 2020 (arXiv 2006.15055), section 3.1
and appendix E.3. The reconstruction is the sum of decoded slots weighted by alpha masks.

Differences from the paper: none in `clevr`, `sprites` and `tetrominoes`. The `fast_` variants have strided
encoders and patch decoders, at about a tenth of the cost, and options of `nn.decoders` and
`nn.attention_bias`.
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
from objecthood.nn.decoders import DecoderOutput, composite, drop_slots, from_symmetric
from objecthood.nn.encoders import check_images
from objecthood.nn.frozen import share_weights
from objecthood.nn.precision import at_least_float32
from objecthood.nn.slot_frames import RelativePatchDecoder, SlotCentredPatchDecoder, SlotFrameReadout
from objecthood.runtime import renamed

INVARIANT = "invariant-slot-attention"
"""Slot module whose encoder has no absolute positions and whose decoder has relative ones, in `fast_` models
with patch decoders."""
Decoder: TypeAlias = SpatialBroadcastDecoder | PatchDecoder | SlotCentredPatchDecoder


class AutoencoderOutput(NamedTuple):
    """Output of `SlotAutoencoder` for a batch of images."""

    reconstruction: Float[Tensor, "batch 3 height width"]
    """Sum of masks * appearance, in [0, 1] units (not clamped)."""
    appearance: Float[Tensor, "batch slots 3 height width"]
    """Decoded image of each slot, in [0, 1] units (not clamped)."""
    masks: Float[Tensor, "batch slots height width"]
    """Alpha masks, which sum to 1 over slots."""
    slots: Float[Tensor, "batch slots slot_dim"]
    attention: Float[Tensor, "batch iterations slots grid_height grid_width"]
    """Softmax over slots of every iteration, on the encoder's grid."""


class SlotAutoencoder(SlotModel):
    """Encoder, grouping and decoder: images in [0, 1] to an `AutoencoderOutput`.

    Args:
        encoder: transformed images to features on a grid (`ConvEncoder`).
        grouping: features to slots (`Grouping`).
        decoder: slots and their last attention to a `DecoderOutput` in [-1, 1] units, with images of side
            `decoder.resolution`.
        input_transform: transform of images in [0, 1] for the encoder and the loss (see
            `nn.color_transforms`; the paper: to [-1, 1]).
        readout: update of the slots after the last iteration (`nn.slot_frames`; the paper: none).
        unconditioned_masks: whether the decoder is trained with unconditioned mask logits as well; these
            then select the best restart.

    Example:
        >>> import torch
        >>> from objecthood.models import autoencoder
        >>> model = autoencoder.fast_tetrominoes()
        >>> output = model(torch.rand(2, 3, 35, 35), num_slots=5, iterations=7)
        >>> output.masks.shape, output.attention.shape
        (torch.Size([2, 5, 35, 35]), torch.Size([2, 7, 5, 18, 18]))
    """

    encoder: ConvEncoder
    grouping: Grouping
    decoder: Decoder
    selects_restarts = True
    composite = staticmethod(composite)

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
        self.encoder, self.grouping, self.decoder = encoder, grouping, decoder
        self.input_transform, self.readout = input_transform, readout
        self.unconditioned_masks = unconditioned_masks
        self.copies: dict[int, SlotAutoencoder] = {}  # by resolution; not part of the state dict

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        noise: Float[Tensor, "batch slots slot_dim"] | None = None,
    ) -> AutoencoderOutput:
        """Masks and reconstruction of `images` in [0, 1].

        Args:
            num_slots, iterations: those of the grouping unless given.
            noise: standard normal noise of the initial slots, drawn unless given.

        Raises:
            ValueError: `images` are not floats of the model's size.
        """
        return self.output(*self.decode(self.encode(images), num_slots, iterations, noise))

    def encode(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch grid_height grid_width feature_dim"]:
        """Features of `images` in [0, 1]."""
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
        """Decoder output, slots and attention of encoded images; other arguments as in `forward`."""
        grid = features.shape[1:3]
        slots, attention = self.grouping(features.flatten(1, 2), num_slots, iterations, noise=noise)
        attention = attention.unflatten(-1, grid)
        if self.readout is not None:
            inputs = self.grouping.slot_attention.norm_inputs(features.flatten(1, 2))
            slots = self.readout(slots, inputs, attention[:, -1])
        decoded = self.decoder(slots, attention[:, -1])
        keep = self.grouping.slot_attention.keep(slots, attention[:, -1].flatten(2))
        return drop_slots(decoded, keep), slots, attention

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Float[Tensor, "restarts batch slots slot_dim"] | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`; the best restart has the lowest `decoding_error`."""
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
                best, lowest = found, error
                continue
            better = error < lowest
            lowest = torch.minimum(lowest, error)
            best = AutoencoderOutput(
                *(
                    torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
                    for new, old in zip(found, best, strict=True)
                )
            )
        assert best is not None
        return SlotOutput(**best._asdict())

    def export_stages(self) -> ExportStages:
        return ExportStages(self.input_transform, self.encoder, self.grouping, self.readout, self.decoder)

    def decoding_error(
        self, images: Float[Tensor, "batch 3 height width"], decoded: DecoderOutput, found: AutoencoderOutput
    ) -> Float[Tensor, " batch"]:
        """Reconstruction error: mean squared error in [0, 1] units.

        With `unconditioned_masks`, the reconstruction uses the unconditioned mask logits:
        attention-conditioned masks reconstruct two objects of one colour as well as one.
        """
        logits = decoded.unconditioned_logits if self.unconditioned_masks else None
        if logits is None:
            reconstruction = found.reconstruction
        else:
            reconstruction, _ = self.composite(decoded.appearance, logits)
        return (reconstruction - images).square().mean(dim=(1, 2, 3))

    def output(
        self,
        decoded: DecoderOutput,
        slots: Float[Tensor, "batch slots slot_dim"],
        attention: Float[Tensor, "batch iterations slots grid_height grid_width"],
    ) -> AutoencoderOutput:
        """The result of `decode` as returned by `forward`."""
        reconstruction, masks = self.composite(decoded.appearance, decoded.mask_logits)
        appearance = from_symmetric(at_least_float32(decoded.appearance))
        return AutoencoderOutput(reconstruction, appearance, masks, slots, attention)

    def at_resolution(self, resolution: int, build: Callable[[int], SlotAutoencoder]) -> SlotAutoencoder:
        """A weight-shared copy for images of another side; frozen parts are shared as well.

        `build` constructs a model of equal weight shapes for a resolution, once per resolution.

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
                copy = build(resolution).to(next(self.parameters()).device)
            copy.load_state_dict(self.state_dict(keep_vars=True), assign=True)
            share_weights(self, copy)
            self.copies[resolution] = copy
        return self.copies[resolution]


def clevr(num_slots: int = 7, resolution: int = 128, slot_module: str = "slot-attention") -> SlotAutoencoder:
    """The paper's model for CLEVR (paper: 128 x 128; 890,308 parameters at any resolution).

    The broadcast grid has a sixteenth of the image's side. Another `slot_module` (`nn.SLOT_MODULES`) is a
    variant.

    Raises:
        ValueError: `resolution` is no multiple of 16.
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
    """A variant of `tetrominoes` at a tenth of its cost: 18 x 18 features, 7 x 7 patches of 5 x 5, learned
    slots. `later_kernels` are kernel sides of the encoder after the first, `last_kernel` that of the
    decoder."""
    options = SlotModuleOptions(num_slots, (18, 18), 64, 64, gradient="bilevel")
    return SlotAutoencoder(
        ConvEncoder(
            channels=32,
            feature_dim=64,
            strides=(2, 1, 1),
            kernel=(5, later_kernels, later_kernels),
            positions=slot_module != INVARIANT,
        ),
        Grouping(LearnedSlots(num_slots, 64), SLOT_MODULES[slot_module](options)),
        patch_decoder(slot_module)(
            64, grid=7, patch=5, channels=64, depth=2, kernel=3, last_kernel=last_kernel
        ),
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
    """A variant for objects on a background: features at half the resolution, independent 4 x 4 patches.

    Args:
        num_slots: number of slots.
        resolution: side of the images in pixels, a multiple of 4.
        spatial_bias, merge_penalty, split_slots: `weight` and options of `SpatialBias`.
        attention_conditioned_masks: as in `PatchDecoder`.
        chromaticity: whether encoder and loss use `opponent_chromaticity`.
        second_kernel: kernel side of the encoder's second convolution.
        bias_before_attention: as in `SlotAttention`; also enables `split_and_merge` of `SpatialBias`.
        noise_scale: as in `LearnedSlots`.
        slot_module: one of `nn.SLOT_MODULES`.
    """
    return SlotAutoencoder(
        ConvEncoder(
            channels=32,
            feature_dim=64,
            strides=(2, 1),
            kernel=(5, second_kernel),
            positions=slot_module != INVARIANT,
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
        patch_decoder(slot_module)(
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
    """A variant with slot-centric reference frames (`nn.slot_frames`), for similar objects at many locations.

    Trained with conditioned and unconditioned masks. Arguments as in `fast_sprites`; with `chromaticity`,
    encoder and loss use `color_and_chromaticity`.
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
    """Learned slots with `SpatialBias` over features at half the `resolution`; arguments as in
    `fast_sprites`."""
    features = (-(-resolution // 2),) * 2
    attention_bias = None
    if spatial_bias or merge_penalty or split_slots:
        attention_bias = SpatialBias(
            features, spatial_bias, merge_penalty, split_slots, split_and_merge=bias_before_attention
        )
    options = SlotModuleOptions(
        num_slots, features, 64, 64, attention_bias, bias_before_attention, gradient="bilevel"
    )
    module = SLOT_MODULES[slot_module](options)  # before the slots: keeps the weights of a seed
    return Grouping(LearnedSlots(num_slots, 64, noise_scale), module)


def gaussian_grouping(num_slots: int, side: int, slot_module: str) -> Grouping:
    """The paper's initial slots (of BO-QSA: learned queries), and a slot module over a square grid of
    features."""
    options = SlotModuleOptions(num_slots, (side, side), 64, 64)
    initial = LearnedSlots(num_slots, 64) if slot_module == "bo-qsa" else GaussianSlots(num_slots, 64)
    return Grouping(initial, SLOT_MODULES[slot_module](options))


def patch_decoder(slot_module: str) -> type[PatchDecoder]:
    """`PatchDecoder`, relative to slots for invariant slot attention."""
    return RelativePatchDecoder if slot_module == INVARIANT else PatchDecoder


def patches_along(resolution: int, patch: int) -> int:
    """Number of patches of side `patch` along `resolution`; ValueError if they do not fit."""
    if resolution % patch or resolution < 2 * patch:
        raise ValueError(f"`resolution` (={resolution}) must be a multiple of {patch}, at least {2 * patch}")
    return resolution // patch


if not TYPE_CHECKING:
    __getattr__ = renamed.attributes(__name__)
