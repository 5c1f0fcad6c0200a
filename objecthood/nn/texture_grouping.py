"""Slots that are textures: each iteration fits a texture to a slot's pixels, then pixels choose by texture.

Expectation maximisation of layers (Wang and Adelson 1994, "Representing Moving Images with Layers"; as a
network, Greff et al. 2017, "Neural Expectation Maximization", arXiv 1708.03498). As in slot attention, slots
compete for inputs by a softmax over slots. A slot is a plane wave (`nn.plane_waves`); the logits are the
negative errors of the waves at each pixel plus a term of its neighbours (`nn.label_field`).

Initial slots are soft clusters of local Fourier coefficients. For the first three quarters of the iterations,
a slot's share of the image is its prior, which empties slots that are not needed; at half of them, slots
whose waves agree are merged. The last quarter omits this prior, so that thin objects can grow.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn.label_field import LabelField
from objecthood.nn.plane_waves import PlaneWaves, local_coefficients

SHARPNESS, TOP = 1.5, 1.4
"""Stripes are not sines: a layer is its wave times 1.5, cut at 1.4 (deviations of the image)."""
TEMPERATURE, CLUSTER_ITERATIONS = 0.2, 8
AGREEMENT = 0.5
"""Correlation, over the pixels of both, above which two slots are one."""
EMPTY, SMALL = 0.005, 0.02
"""Share of the image below which a slot is empty, when slots are joined and for the last iterations."""
MEAN_FIELD = 4
"""Iterations of the label field in each iteration."""


class TextureGrouping(nn.Module):
    """Grey images to waves and masks; deterministic.

    Args:
        side: side of the images in pixels.
        num_slots: number of slots; those that are not needed end up empty.
        iterations: how often waves are fitted.
        num_frequencies: dominant frequencies of the image whose local coefficients the slots start from.

    Example:
        >>> pixels = (torch.arange(32) + 0.5) / 32
        >>> stripes = torch.cos(2 * torch.pi * 7 * pixels)
        >>> image = torch.where(pixels[:, None] < 0.5, stripes, stripes[:, None])[None]
        >>> waves, masks = TextureGrouping(side=32, num_slots=3, num_frequencies=2)(image)
        >>> waves.shape, masks.shape, len(masks[0, -1].argmax(dim=0).unique())
        (torch.Size([1, 3, 4]), torch.Size([1, 12, 3, 32, 32]), 2)
    """

    slot_dim = 4

    def __init__(self, side: int, num_slots: int = 6, iterations: int = 12, num_frequencies: int = 4):
        super().__init__()
        self.num_slots, self.iterations, self.num_frequencies = num_slots, iterations, num_frequencies
        self.waves, self.field = PlaneWaves(side), LabelField()

    @torch.no_grad()
    def forward(
        self,
        image: Float[Tensor, "batch height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
    ) -> tuple[Float[Tensor, "batch slots 4"], Float[Tensor, "batch iterations slots height width"]]:
        """Waves, and the masks of every iteration; no gradient."""
        iterations = self.iterations if iterations is None else iterations
        features = local_coefficients(self.waves, image, self.num_frequencies)
        masks = soft_clusters(features, self.num_slots if num_slots is None else num_slots)
        empty, found = torch.zeros_like(masks[:, :, :1, :1], dtype=torch.bool), []
        half, last = iterations // 2, iterations - iterations // 4
        for iteration in range(iterations):
            if iteration in (half, last):
                if iteration == half:
                    masks = joined(masks, self.layers(self.waves.fit(image, masks)))
                share = masks.mean(dim=(2, 3), keepdim=True)
                empty = share < (EMPTY if iteration == half else SMALL)
            errors = self.errors(image, self.waves.fit(image, masks))
            share_weight = 1.0 if iteration < last else 0.0
            masks = self.field(errors, masks, MEAN_FIELD, share_weight, empty)
            found.append(masks)
        return self.waves.fit(image, masks), torch.stack(found, dim=1)

    def layers(self, waves: Float[Tensor, "batch slots 4"]) -> Float[Tensor, "batch slots height width"]:
        """The texture of each slot across the whole image."""
        return (SHARPNESS * self.waves(waves)).clamp(-TOP, TOP)

    def errors(
        self, image: Float[Tensor, "batch height width"], waves: Float[Tensor, "batch slots 4"]
    ) -> Float[Tensor, "batch slots height width"]:
        """Squared differences of the layers from the image, at most 1."""
        return (image[:, None] - self.layers(waves)).square().clamp(max=1.0)

    def loss(self, image: Float[Tensor, "batch height width"]) -> Float[Tensor, ""]:
        """Negative log pseudolikelihood of the label field, given waves and masks."""
        waves, masks = self(image)
        return self.field.pseudolikelihood(self.errors(image, waves), masks[:, -1])


def soft_clusters(
    features: Float[Tensor, "batch channels height width"], number: int
) -> Float[Tensor, "batch number height width"]:
    """Soft k-means from farthest points (Gonzalez 1985): the feature of largest norm, then one by one the
    feature whose 3 x 3 neighbourhood is farthest from those chosen."""
    height, width = features.shape[-2:]
    points = features.flatten(2).transpose(1, 2)
    index = points.square().sum(dim=-1).argmax(dim=1)
    chosen, distance = [], torch.full_like(points[..., 0], torch.inf)
    rows = torch.arange(len(points), device=points.device)
    for _ in range(number):
        chosen.append(points[rows, index])
        distance = torch.minimum(distance, (points - chosen[-1][:, None]).square().sum(dim=-1))
        eroded = -F.max_pool2d(-distance.unflatten(1, (1, height, width)), 3, stride=1, padding=1)
        index = eroded.flatten(1).argmax(dim=1)
    means = torch.stack(chosen, dim=1)
    for _ in range(CLUSTER_ITERATIONS):
        masks = (-torch.cdist(points, means).square() / TEMPERATURE).softmax(dim=-1).transpose(1, 2)
        means = (masks @ points) / (masks.sum(dim=-1, keepdim=True) + 1e-4)
    return masks.unflatten(-1, (height, width))


def joined(
    masks: Float[Tensor, "batch slots height width"], layers: Float[Tensor, "batch slots height width"]
) -> Float[Tensor, "batch slots height width"]:
    """Masks in which the first of two slots with agreeing layers has the pixels of both."""
    masks, flat = masks.clone(), layers.flatten(2)
    weights = (masks[:, :, None] + masks[:, None]).flatten(3)
    products = torch.einsum("bijp,bip,bjp->bij", weights, flat, flat)
    squares = torch.einsum("bijp,bip->bij", weights, flat.square())
    agree = products > AGREEMENT * (squares * squares.transpose(1, 2)).sqrt()
    share = masks.mean(dim=(2, 3))
    for first in range(masks.shape[1]):
        for second in range(first + 1, masks.shape[1]):
            both = agree[:, first, second] & (share[:, first] > EMPTY) & (share[:, second] > EMPTY)
            masks[both, first] += masks[both, second]
            masks[both, second] = 0
    return masks
