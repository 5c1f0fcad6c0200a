"""Computations of the demo server: the export stages of a model in PyTorch.

Responses are concatenated little-endian float32 arrays, the same as the outputs of the browser engine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from objecthood.data.io.images import read_image
from objecthood.demo.shown import Shown
from objecthood.export.stages import export_stages_of, stages_of_discovery
from objecthood.models.base import FeatureStages
from objecthood.models.of_photographs import PhotographModel
from objecthood.nn.guided_filter import guided_masks
from objecthood.runtime import limits

MAX_PIXELS = limits.UPLOAD_PIXELS
"""Pixel limit of an uploaded image. Decoding takes up to 12 bytes per pixel (with transparency), 300 MB."""


def never() -> bool:
    """The client never disconnects: for calls without a network."""
    return False


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of Slot Attention on one image."""

    slots: int
    iterations: int
    seed: int
    noise_scale: float


class Work:
    """One model with iterations of slots, and its export stages."""

    def __init__(self, shown: Shown):
        self.model = shown.model
        self.stages = stages_of_discovery(shown.model)
        self.rows, self.columns = shown.model.feature_grid

    @torch.no_grad()
    def look(self, content: bytes, settings: Settings, left: Callable[[], bool] = never) -> bytes:
        """The preprocessed image [3, side, side], slots [iterations, slots, dim] and attention [iterations,
        slots, rows * columns]; b"" once `left` returns True.

        Raises ImageError if `content` is not a supported image.
        """
        if left():
            return b""
        image = self.model.preprocess(read_image(content, max_pixels=MAX_PIXELS))[0][None]
        noise = torch.from_numpy(_normal(settings.seed, (1, settings.slots, self.model.slot_dim)))
        slots = self.stages.start(noise, torch.tensor(settings.noise_scale))
        inputs = self.stages.encode(image)
        bias, all_slots, attention = torch.zeros(1, settings.slots, inputs.shape[1]), [], []
        for _ in range(settings.iterations):
            if left():
                return b""
            slots, shares, bias, to_decode = self.stages.step(slots, inputs, bias)
            all_slots.append(to_decode)
            attention.append(shares)
        return _packed(image, torch.stack(all_slots), torch.stack(attention))

    def decode_size(self, num_slots: int) -> int:
        """Size of the request body of `decode`, in bytes."""
        return 4 * num_slots * (self.model.slot_dim + self.rows * self.columns)

    @torch.no_grad()
    def decode(self, content: bytes, num_slots: int, left: Callable[[], bool] = never) -> bytes:
        """Decode slots [slots, dim] and attention [slots, rows * columns] into appearance [slots, 3, side,
        side] and mask logits [slots, side, side]; b"" if `left` returns True.

        Raises ValueError if `content` has another size or non-finite numbers.
        """
        if left():
            return b""
        if len(content) != self.decode_size(num_slots):
            raise ValueError(f"{num_slots} slots are {self.decode_size(num_slots)} bytes; got {len(content)}")
        numbers = np.frombuffer(content, "<f4").astype(np.float32)
        if not np.isfinite(numbers).all():
            raise ValueError("slots and attention must be finite numbers")
        slots, attention = np.split(numbers, [num_slots * self.model.slot_dim])
        grid = (1, num_slots, self.rows, self.columns)
        appearance, mask_logits = self.stages.decode(
            torch.from_numpy(slots).view(1, num_slots, -1),
            torch.from_numpy(attention).clamp(0, 1).view(grid),
        )
        return _packed(appearance, mask_logits)


class PhotographWork:
    """A model of photographs."""

    def __init__(self, shown: Shown):
        assert isinstance(shown.model, PhotographModel)
        self.model = shown.model

    @torch.no_grad()
    def divide(self, content: bytes, num_segments: int, left: Callable[[], bool] = never) -> bytes:
        """int32 segments, rows and columns, then masks [segments, rows, columns] of about
        `guided_filter.SIDE` squared pixels; b"" once `left` returns True.

        Args:
            num_segments: 0 for as many as the model finds.

        Raises ImageError if `content` is not a supported image.
        """
        if left():
            return b""
        image = self.model.preprocess(read_image(content, max_pixels=MAX_PIXELS))[0]
        _, attention = self.model.group(image, num_segments or None)
        masks = guided_masks(attention, image)
        return np.asarray(masks.shape, "<i4").tobytes() + _packed(masks)


class LiveWork:
    """A model of live images."""

    def __init__(self, shown: Shown):
        self.model, self.stages = shown.model, export_stages_of(shown.model)

    @torch.no_grad()
    def segment(self, content: bytes, left: Callable[[], bool] = never) -> bytes:
        """int32 slots, rows and columns, then masks [slots, rows, columns] as of `PhotographWork.divide`.

        Raises ImageError if `content` is not a supported image.
        """
        if left():
            return b""
        assert isinstance(self.stages, FeatureStages)
        pixels = read_image(content, max_pixels=MAX_PIXELS)
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
        _, attention = self.stages.group(self.stages.features(image))
        masks = guided_masks(attention[0], image)
        return np.asarray(masks.shape, "<i4").tobytes() + _packed(masks)


def _normal(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _packed(*tensors: torch.Tensor) -> bytes:
    return b"".join(tensor.numpy().astype("<f4").tobytes() for tensor in tensors)
