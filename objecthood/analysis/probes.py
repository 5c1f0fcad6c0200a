"""Probes of slots: properties by ridge regression, and images by a decoder trained on frozen slots.

No gradient reaches the model. Slots are matched with objects one to one by overlap of masks ("mask matching"
of Dittadi et al. 2022, "Generalization and Robustness Implications in Object-Centric Learning", arXiv
2107.00637), so the training objective of a model does not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from objecthood import metrics
from objecthood.data.scene import Scenes
from objecthood.nn import assign

LEAST_SEEN = 0.3
"""Minimum visible share of an object in a frame."""
RIDGE = 0.1
"""Ridge penalty per sample at unit variance, for collinear slot dimensions."""
KINDS = 3
"""Square, ellipse, heart."""


class Objects(NamedTuple):
    """Objects of frames with their matched slots."""

    slots: Float[Tensor, "objects slot_dim"]
    position: Float[Tensor, "objects 2"]
    """Centroid of the visible pixels, across and down, in [0, 1]."""
    colour: Float[Tensor, "objects 3"]
    """Mean colour of the visible pixels, in [0, 1]."""
    kind: Int[Tensor, " objects"]


def matched_objects(
    scenes: Scenes,
    slots: Float[Tensor, "batch time slots slot_dim"],
    masks: Float[Tensor, "batch time slots height width"],
) -> Objects:
    """Sufficiently visible objects, with slots assigned by overlap of argmax masks."""
    labels = metrics.clip_labels(scenes["masks"], masks).flatten(0, 1)
    truth = scenes["masks"].flatten(0, 1)
    overlap, _ = metrics.object_overlaps(truth, labels)
    rows, columns = assign(-overlap)
    frame = torch.arange(len(truth))[:, None].expand_as(rows)
    visible = scenes["visibility"].flatten(0, 1)[frame, rows] >= LEAST_SEEN
    frame, rows, columns = frame[visible], rows[visible], columns[visible]
    chosen = (truth[frame] == rows[:, None, None] + 1).to(torch.float64)
    clip = frame // scenes["image"].shape[1]
    return Objects(
        slots.flatten(0, 1)[frame, columns].double(),
        centroids(chosen),
        (scenes["image"].flatten(0, 1)[frame] * chosen[:, None]).sum((2, 3)) / chosen.sum((1, 2))[:, None],
        scenes["kind"][clip, rows],
    )


def placed(
    slots: Float[Tensor, "*batch slots slot_dim"], masks: Float[Tensor, "*batch slots height width"]
) -> Float[Tensor, "*batch slots numbers"]:
    """Slots with 3 additional numbers of their mask: centroid (across, down) and root of its area share.

    >>> placed(torch.zeros(1, 2, 8), torch.full((1, 2, 4, 4), 0.5))[0, 0, 8:].round(decimals=4)
    tensor([0.5000, 0.5000, 0.7071])
    """
    flat = masks.flatten(0, -3)
    share = flat.mean((1, 2))[:, None].sqrt()
    position = torch.cat([centroids(flat.clamp_min(1e-9)), share], dim=1)
    return torch.cat([slots, position.view(*slots.shape[:-1], 3)], dim=-1)


def centroids(masks: Float[Tensor, "objects height width"]) -> Float[Tensor, "objects 2"]:
    """Centroid of each mask, across and down, in [0, 1].

    >>> centroids(torch.eye(2)[None])
    tensor([[0.5000, 0.5000]])
    """
    height, width = masks.shape[1:]
    across = (torch.arange(width, dtype=masks.dtype) + 0.5) / width
    down = (torch.arange(height, dtype=masks.dtype) + 0.5) / height
    mass = masks.sum((1, 2))
    return torch.stack([(masks.sum(1) @ across) / mass, (masks.sum(2) @ down) / mass], dim=1)


def property_scores(train: Objects, test: Objects) -> dict[str, float]:
    """R2 of position and colour, and accuracy of kind (chance level 1/3), on `test`, by ridge regression
    fitted on `train`."""
    kinds = F.one_hot(train.kind, KINDS).double()
    predicted = [predict(train.slots, target, test.slots) for target in (train.position, train.colour, kinds)]
    return {
        "position_r2": r2(predicted[0], test.position),
        "colour_r2": r2(predicted[1], test.colour),
        "kind_accuracy": (predicted[2].argmax(dim=1) == test.kind).double().mean().item(),
    }


def predict(
    inputs: Float[Tensor, "samples numbers"],
    wanted: Float[Tensor, "samples outputs"],
    asked: Float[Tensor, "others numbers"],
) -> Float[Tensor, "others outputs"]:
    """Ridge regression with penalty `RIDGE`, fitted on `inputs` and `wanted`, applied to `asked`; inputs are
    standardised.

    >>> line = torch.arange(6.0, dtype=torch.float64)[:, None]
    >>> predict(line, 3 * line + 1, line[2:4].mean(dim=0, keepdim=True)).round(decimals=1)
    tensor([[8.5000]], dtype=torch.float64)
    """
    mean, deviation = inputs.mean(dim=0), inputs.std(dim=0).clamp_min(1e-6)
    inputs, asked = (inputs - mean) / deviation, (asked - mean) / deviation
    offset = wanted.mean(dim=0)
    gram = inputs.T @ inputs / len(inputs) + RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    return asked @ torch.linalg.solve(gram, inputs.T @ (wanted - offset) / len(inputs)) + offset


def r2(predicted: Float[Tensor, "samples numbers"], true: Float[Tensor, "samples numbers"]) -> float:
    """Coefficient of determination, 1 - MSE / variance, averaged over numbers.

    >>> r2(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [2.0]]))
    1.0
    """
    return (1 - (predicted - true).square().mean(dim=0) / true.var(dim=0, correction=0)).mean().item()


class DecoderProbe(nn.Module):
    """A small decoder of frames and masks from frozen slots.

    Slots are those of `placed`; every patch is decoded from its coordinates relative to the slot's centroid,
    in units of its size.

    Example:
        >>> probe = DecoderProbe(slot_dim=67, resolution=32)
        >>> image, masks = probe(torch.rand(2, 4, 67))
        >>> image.shape, masks.shape
        (torch.Size([2, 3, 32, 32]), torch.Size([2, 4, 32, 32]))
    """

    def __init__(self, slot_dim: int, resolution: int, patch: int = 4, channels: int = 64):
        super().__init__()
        self.side, self.patch = resolution // patch, patch
        self.decode = nn.Sequential(
            nn.Linear(slot_dim, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, 4 * patch**2),
        )

    def forward(
        self, slots: Float[Tensor, "frames slots slot_dim"]
    ) -> tuple[Float[Tensor, "frames 3 height width"], Float[Tensor, "frames slots height width"]]:
        """Images in [0, 1] units (not clamped), and alpha masks that sum to 1 over slots."""
        slots = slots.detach()
        contents, centroid, size = slots[..., None, :-3], slots[..., None, -3:-1], slots[..., None, -1:]
        line = (torch.arange(self.side, dtype=slots.dtype, device=slots.device) + 0.5) / self.side
        down, across = torch.meshgrid(line, line, indexing="ij")
        patches = torch.stack([across, down], dim=-1).flatten(0, 1)
        offset = ((patches - centroid) / size.clamp_min(0.05)).clamp(-4, 4)
        distance = offset.square().sum(dim=-1, keepdim=True).sqrt()
        contents = contents.expand(*contents.shape[:2], len(patches), -1)
        decoded = self.decode(torch.cat([contents, offset, distance], dim=-1)).flatten(0, 1)
        folded = F.pixel_shuffle(decoded.mT.unflatten(-1, (self.side, self.side)), self.patch)
        folded = folded.unflatten(0, slots.shape[:2])
        masks = folded[:, :, 3].softmax(dim=1)
        return 0.5 + 0.5 * (masks[:, :, None] * folded[:, :, :3]).sum(dim=1), masks
