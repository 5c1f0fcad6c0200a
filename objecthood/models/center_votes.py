"""Center votes: a network predicts for each pixel whether it is background, and where its object's centre is.

For scenes with patterned surfaces, where grouping by colour fails. It is trained without labels: regions off
the line of the background's colours (`nn.background_line`) are pasted into other images
(`nn.cut_and_paste`), so that objects overlap and share colours with the background. This is not slot
attention: slots are means of the votes (`nn.center_votes`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from objecthood.models.base import SlotModel, SlotOutput
from objecthood.nn.background_line import background_line, off_line
from objecthood.nn.center_votes import CenterVotes
from objecthood.nn.cut_and_paste import UNSURE, find_objects, paste_objects
from objecthood.nn.encoders import check_images
from objecthood.nn.positions import coordinate_grid
from objecthood.nn.precision import at_least_float32, check_float32
from objecthood.nn.unet import UNet

OFF_LINE = 0.3
"""Distance from the background's line above which a pixel is foreground, in units of chromaticity."""
REACH = 0.25
"""Unit of the network's offsets, in sides of the image."""


class CenterVoteModel(SlotModel):
    """Images to a background and objects; deterministic.

    Args:
        resolution: side of the images in pixels, a multiple of 16.
        num_slots: background and objects.

    Raises:
        ValueError: `resolution` is no multiple of 16.

    Example:
        >>> import torch
        >>> output = CenterVoteModel(resolution=32, num_slots=4).segment(torch.rand(2, 3, 32, 32))
        >>> output.slots.shape, output.masks.shape
        (torch.Size([2, 4, 5]), torch.Size([2, 4, 32, 32]))
    """

    grouping: CenterVotes  # type: ignore[assignment]

    def __init__(self, resolution: int = 64, num_slots: int = 7):
        super().__init__()
        if resolution < 16 or resolution % 16:
            raise ValueError(
                f"`resolution` (={resolution}) must be a multiple of 16: the network halves it four times"
            )
        self.image_size = self.feature_grid = (resolution, resolution)
        self.network = UNet(in_channels=8, out_channels=3)
        self.grouping = CenterVotes(num_slots)

    @property
    def slot_dim(self) -> int:
        """Centre (y, x) and mean colour."""
        return 5

    def predict(
        self, images: Float[Tensor, "batch 3 height width"], ends: Float[Tensor, "batch 2 2"] | None = None
    ) -> tuple[Float[Tensor, "batch height width"], Float[Tensor, "batch 2 height width"]]:
        """Logits of the foreground, and offsets (down, right) to the centre in sides of the image; `ends` of
        the background's line are found unless given."""
        ends = background_line(images) if ends is None else ends
        off = off_line(images, ends)
        places = 2 * coordinate_grid(*self.image_size, images.device).movedim(-1, 0) - 1
        parts = [
            2 * images - 1,
            off,
            off.norm(dim=1, keepdim=True),
            places.expand(images.shape[0], -1, -1, -1),
        ]
        maps = at_least_float32(self.network(torch.cat(parts, dim=1)))
        return maps[:, 0], REACH * maps[:, 1:]

    def segment(
        self,
        images: Float[Tensor, "batch 3 height width"],
        num_slots: int | None = None,
        iterations: int | None = None,
        restarts: int | None = None,
        noise: Tensor | None = None,
    ) -> SlotOutput:
        """As `SlotModel.segment`; slots are centre (y, x) and mean colour, attention is the masks of every
        iteration. `restarts` and `noise` are ignored, beyond the number of slots that `noise` has."""
        check_images(images, self.resolution)
        check_float32(self, images)
        if num_slots is None and noise is not None:
            num_slots = noise.shape[-2]
        logits, offsets = self.predict(images)
        votes = offsets + pixel_centers(*self.image_size, images.device)
        centers, masks = self.grouping(logits.sigmoid(), votes, num_slots, iterations)
        last = masks[:, -1].flatten(2)
        colors = last @ images.flatten(2).transpose(1, 2) / last.sum(dim=-1, keepdim=True).clamp_min(1e-6)
        appearance = colors[..., None, None].expand(-1, -1, -1, *images.shape[2:])
        reconstruction = (masks[:, -1, :, None] * appearance).sum(dim=1)
        slots = torch.cat([centers, colors], dim=-1)
        return SlotOutput(slots, masks, masks[:, -1], reconstruction, appearance)

    forward = segment

    def loss(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, ""]:
        """Training loss on `images` with objects pasted into them; channels in another order, and mirrored or
        not, the whole batch alike."""
        images = images[:, torch.randperm(3, device=images.device)]
        images = images.flip(-1) if torch.rand(()) < 0.5 else images
        ends = background_line(images)
        objects = find_objects(off_line(images, ends).norm(dim=1) > OFF_LINE)
        images, objects = paste_objects(images, objects)
        logits, offsets = self.predict(images, ends)  # what is pasted leaves the line as it is
        present = (objects != 0).float()
        error = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
        known = objects > 0
        missed = (offsets - to_centers(objects)).abs().sum(dim=1) / REACH
        return (error * (objects != UNSURE)).mean() + (missed * known).sum() / known.sum().clamp_min(1)


def pixel_centers(
    height: int, width: int, device: torch.device | str | None = None
) -> Float[Tensor, "2 height width"]:
    """(y, x) of pixels, in sides of the image."""
    rows, columns = ((torch.arange(side, device=device) + 0.5) / side for side in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def to_centers(objects: Int[Tensor, "batch height width"]) -> Float[Tensor, "batch 2 height width"]:
    """Offsets (down, right) from every pixel to the mean place of the pixels of its label, in sides of the
    image."""
    height, width = objects.shape[1:]
    places = pixel_centers(height, width, objects.device).flatten(1).T
    number = int(objects.max()) + 1 - UNSURE
    image = torch.arange(len(objects), device=objects.device)[:, None, None]
    index = (image * number + objects - UNSURE).flatten()
    every = places.repeat(len(objects), 1)
    sums = every.new_zeros(len(objects) * number, 3)
    sums.index_add_(0, index, torch.cat([every, torch.ones_like(every[:, :1])], dim=1))
    means = sums[:, :2] / sums[:, 2:].clamp_min(1)
    return (means[index] - every).view(len(objects), height, width, 2).movedim(-1, 1)
