"""Reference implementation of the paper's model in plain eager PyTorch, for benchmarks and equivalence tests.

Locatello et al. 2020 (arXiv 2006.15055), algorithm 1 and appendix E, in channels-first format and float32.
Its state dict is compatible with `models.autoencoder`.

Differences from the paper: none. Layers of stride 1 in the decoder are convolutions, which are equivalent to
transposed ones and faster here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ReferenceAutoencoder(nn.Module):
    """Object discovery: images in [0, 1] to reconstruction in [-1, 1] and masks.

    Args:
        resolution: side of the images, in pixels. 128: the model for CLEVR, 64 channels and strided
            decoder; else the model for small images, 32 channels and slots broadcast to every pixel.
        num_slots: number of slots (paper: 7 at 128 pixels, 6 at 64, 4 at 35).

    Example:
        >>> reconstruction, masks = ReferenceAutoencoder(35, num_slots=4)(torch.rand(2, 3, 35, 35))
        >>> reconstruction.shape, masks.shape
        (torch.Size([2, 3, 35, 35]), torch.Size([2, 4, 35, 35]))
    """

    def __init__(self, resolution: int, num_slots: int):
        super().__init__()
        large = resolution == 128
        self.encoder = ReferenceEncoder(64 if large else 32)
        self.grouping = ReferenceGrouping(num_slots)
        if large:
            self.decoder = ReferenceDecoder(8, [64] * 5, strides=[2, 2, 2, 2, 1, 1], kernels=[5] * 5 + [3])
        else:
            self.decoder = ReferenceDecoder(resolution, [32] * 3, strides=[1] * 4, kernels=[5] * 3 + [3])

    def forward(
        self,
        images: Float[Tensor, "batch 3 height width"],
        noise: Float[Tensor, "batch slots 64"] | None = None,
    ) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch slots height width"]]:
        """Reconstruction and masks; `noise` of the initial slots (standard normal) is drawn unless given."""
        slots = self.grouping(self.encoder(2 * images - 1), noise)
        decoded = self.decoder(slots)
        appearance, masks = decoded[:, :, :3], decoded[:, :, 3:].softmax(dim=1)
        return (masks * appearance).sum(dim=1), masks[:, :, 0]


class ReferenceEncoder(nn.Module):
    """Four convolutions, position embedding, layer norm, MLP: one feature per pixel."""

    def __init__(self, channels: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(size, channels, 5, padding=2) for size in [3, channels, channels, channels]
        )
        self.position = ReferencePosition(channels)
        self.norm = nn.LayerNorm(channels, eps=1e-3)
        self.mlp = nn.Sequential(nn.Linear(channels, 64), nn.ReLU(), nn.Linear(64, 64))

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch inputs 64"]:
        """Features, one row per pixel."""
        for convolution in self.convolutions:
            image = F.relu(convolution(image))
        return self.mlp(self.norm(self.position(image).flatten(2).transpose(1, 2)))


class ReferencePosition(nn.Module):
    """Position embedding: adds a linear map of the distances to the four borders."""

    def __init__(self, channels: int):
        super().__init__()
        self.dense = nn.Linear(4, channels)

    def forward(
        self, image: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """`image` plus position embedding."""
        rows = torch.linspace(0, 1, image.shape[2], device=image.device)
        columns = torch.linspace(0, 1, image.shape[3], device=image.device)
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return image + self.dense(torch.stack([y, x, 1 - y, 1 - x], dim=-1)).permute(2, 0, 1)


class ReferenceGrouping(nn.Module):
    """Algorithm 1: Gaussian slots, three iterations of attention."""

    def __init__(self, num_slots: int):
        super().__init__()
        self.num_slots = num_slots
        self.initial_slots = ReferenceSlots()
        self.slot_attention = ReferenceSlotAttention()

    def forward(
        self, inputs: Float[Tensor, "batch inputs 64"], noise: Tensor | None = None
    ) -> Float[Tensor, "batch slots 64"]:
        """Slots after the last iteration."""
        if noise is None:
            noise = torch.randn(len(inputs), self.num_slots, 64, device=inputs.device)
        return self.slot_attention(inputs, self.initial_slots(noise))


class ReferenceSlots(nn.Module):
    """mean + deviation * noise, with learned mean and deviation."""

    def __init__(self) -> None:
        super().__init__()
        self.slots_mu = nn.Parameter(torch.empty(1, 1, 64).uniform_(-0.3, 0.3))
        self.slots_log_sigma = nn.Parameter(torch.empty(1, 1, 64).uniform_(-0.3, 0.3))

    def forward(self, noise: Float[Tensor, "batch slots 64"]) -> Float[Tensor, "batch slots 64"]:
        """Initial slots."""
        return self.slots_mu + self.slots_log_sigma.exp() * noise


class ReferenceSlotAttention(nn.Module):
    """The iterations of algorithm 1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_inputs = nn.LayerNorm(64, eps=1e-3)
        self.norm_slots = nn.LayerNorm(64, eps=1e-3)
        self.norm_mlp = nn.LayerNorm(64, eps=1e-3)
        self.project_q = nn.Linear(64, 64, bias=False)
        self.project_k = nn.Linear(64, 64, bias=False)
        self.project_v = nn.Linear(64, 64, bias=False)
        self.gru = nn.GRUCell(64, 64)
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64))

    def forward(
        self,
        inputs: Float[Tensor, "batch inputs 64"],
        slots: Float[Tensor, "batch slots 64"],
        iterations: int = 3,
    ) -> Float[Tensor, "batch slots 64"]:
        """Slots after `iterations` iterations."""
        inputs = self.norm_inputs(inputs)
        keys, values = self.project_k(inputs), self.project_v(inputs)
        for _ in range(iterations):
            previous = slots
            queries = self.project_q(self.norm_slots(slots)) / 64**0.5
            attention = torch.softmax(keys @ queries.transpose(1, 2), dim=-1) + 1e-8
            attention = attention / attention.sum(dim=1, keepdim=True)
            updates = attention.transpose(1, 2) @ values
            slots = self.gru(updates.reshape(-1, 64), previous.reshape(-1, 64)).reshape(previous.shape)
            slots = slots + self.mlp(self.norm_mlp(slots))
        return slots


class ReferenceDecoder(nn.Module):
    """Spatial broadcast decoder: slots on a grid, position embedding, convolutions, four channels."""

    def __init__(self, grid: int, channels: list[int], strides: list[int], kernels: list[int]):
        super().__init__()
        self.grid = grid
        self.position = ReferencePosition(64)
        sizes = [64, *channels, 4]
        self.layers = nn.ModuleList(
            nn.ConvTranspose2d(size, out, kernel, stride, padding=(kernel - stride) // 2)
            if stride > 1
            else nn.Conv2d(size, out, kernel, padding=kernel // 2)
            for size, out, kernel, stride in zip(sizes[:-1], sizes[1:], kernels, strides, strict=True)
        )

    def forward(self, slots: Float[Tensor, "batch slots 64"]) -> Float[Tensor, "batch slots 4 height width"]:
        """RGB in [-1, 1] and mask logits of every slot."""
        canvas = slots.reshape(-1, 64, 1, 1).repeat(1, 1, self.grid, self.grid)
        canvas = self.position(canvas)
        for index, layer in enumerate(self.layers):
            canvas = layer(F.relu(canvas) if index else canvas)
            if isinstance(layer, nn.ConvTranspose2d):  # TensorFlow's SAME: twice the size
                canvas = canvas[:, :, :-1, :-1]
        return canvas.reshape(*slots.shape[:2], *canvas.shape[1:])
