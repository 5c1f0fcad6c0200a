"""Scenes whose objects are known: objects cut out of images and pasted into others.

After Dwibedi, Misra and Hebert, "Cut, Paste and Learn" (ICCV 2017, arXiv 1708.01642), who paste labelled
objects. Here objects are found without labels: compact connected regions off the background, which are seldom
two objects. The outline of a pasted object is known whatever it covers. Regions that are not compact count as
foreground of unknown objects.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from objecthood.nn.mask_moments import Moments, position_terms, scatter
from objecthood.nn.positions import coordinate_grid

UNKNOWN, UNSURE = -1, -2
"""Labels of foreground of unknown objects, and of regions that are too small to tell."""
SMALLEST, SMALLEST_OBJECT = 0.0024, 0.005
"""Share of the image below which a region is not sure to be foreground, and below which it is no object."""
LARGEST_HOLE = 0.01
LARGEST_SCATTER = 1.2
"""Scatter (`nn.mask_moments`) above which a region may be several objects; 1.05 for a square."""


@torch.no_grad()
def find_objects(foreground: Bool[Tensor, "batch height width"]) -> Int[Tensor, "batch height width"]:
    """Labels of connected regions: 0 background, 1, 2, ... compact ones, `UNKNOWN` others, `UNSURE` small
    ones.

    Example:
        >>> foreground = torch.zeros(1, 32, 32, dtype=torch.bool)
        >>> foreground[0, 4:12, 4:12] = foreground[0, 20:24, 2:30] = foreground[0, 30, 30] = True
        >>> foreground[0, 8, 8] = False
        >>> labels = find_objects(foreground)[0]
        >>> [labels[row, column].item() for row, column in ((8, 8), (22, 15), (30, 30), (0, 0))]
        [1, -1, -2, 0]
    """
    height, width = foreground.shape[1:]
    area = height * width
    holes = regions(~foreground)
    at_border = torch.zeros(int(holes.max()) + 1, dtype=torch.bool, device=holes.device)
    for border in (holes[:, 0], holes[:, -1], holes[:, :, 0], holes[:, :, -1]):
        at_border[border.flatten()] = True
    is_hole = ~at_border & (holes.flatten().bincount() <= LARGEST_HOLE * area)
    is_hole[0] = False
    found = regions(foreground | is_hole[holes])
    shape = _moments(found)
    size = shape.mass / area
    label = torch.full_like(size, UNKNOWN, dtype=torch.long)
    compact = (size >= SMALLEST_OBJECT) & (scatter(shape, area) <= LARGEST_SCATTER)
    compact[0] = False
    label[size < SMALLEST] = UNSURE
    label[0] = 0
    # Compact regions of an image are numbered from 1.
    image_of = torch.zeros_like(label)
    image_of[found.flatten()] = torch.arange(len(found), device=found.device).repeat_interleave(area)
    number = torch.zeros(len(found), dtype=torch.long, device=found.device)
    number.index_add_(0, image_of, compact.long())
    before = number.cumsum(0) - number
    label = torch.where(compact, compact.cumsum(0) - before[image_of], label)
    return label[found]


def regions(mask: Bool[Tensor, "batch height width"]) -> Int[Tensor, "batch height width"]:
    """Connected regions of all images (4 neighbours), numbered from 1 in their order; 0 elsewhere."""
    from scipy import ndimage  # takes a second to import

    within = torch.zeros(3, 3, 3).numpy()
    within[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    found, _ = ndimage.label(mask.cpu().numpy(), within)
    return torch.from_numpy(found).long().to(mask.device)


def _moments(regions: Int[Tensor, "batch height width"]) -> Moments:
    """Moments of numbered regions."""
    height, width = regions.shape[1:]
    flat, number = regions.flatten(), int(regions.max()) + 1
    places = coordinate_grid(height, width, regions.device).flatten(0, 1).repeat(len(regions), 1)
    sums = places.new_zeros(number, 4).index_add_(0, flat, position_terms(places))
    return Moments(sums[:, 0], sums[:, 1:3], sums[:, 3])


@torch.no_grad()
def paste_objects(
    images: Float[Tensor, "batch 3 height width"],
    labels: Int[Tensor, "batch height width"],
    rounds: int = 3,
) -> tuple[Float[Tensor, "batch 3 height width"], Int[Tensor, "batch height width"]]:
    """Images and labels with up to `rounds` objects pasted into each, from images of the batch; random
    numbers are of the global generator.

    An object that does not touch the border is mirrored or not, moved across the image and slightly up or
    down, in half of the cases to an object that is there. Of two objects the one whose lowest row is lower is
    in front.

    Example:
        >>> images, labels = torch.zeros(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.long)
        >>> images[0, :, 4:12, 4:12], labels[0, 4:12, 4:12] = 1.0, 1
        >>> _ = torch.manual_seed(0)
        >>> _, pasted = paste_objects(images, labels, rounds=8)
        >>> bool((pasted[1] > 0).any())
        True
    """
    batch, height, width = labels.shape
    boxes = _boxes(labels)
    touches = (boxes[:, 2:4] == 0).any(dim=1) | (boxes[:, 4] == height - 1) | (boxes[:, 5] == width - 1)
    pool = boxes[(boxes[:, 1] > 0) & ~touches]
    if not len(pool):
        return images, labels
    first = int(labels.max()) + 1
    lowest = torch.full((batch, first - UNKNOWN), -1, device=labels.device)
    lowest[boxes[:, 0], boxes[:, 1] - UNKNOWN] = boxes[:, 4]
    lowest[:, -UNKNOWN] = -1  # the background
    lowest = lowest.gather(1, (labels - UNKNOWN).clamp_min(0).flatten(1)).view_as(labels)
    draw = torch.rand(rounds, 7, batch, device=labels.device)
    for number, (which, use, mirror, down, where, column, aside) in enumerate(draw):
        source, label, top, left, bottom, right = pool[(which * len(pool)).long()].T
        mask = labels[source] == label[:, None, None]
        present = (labels != 0).float().flatten(1) + 1e-9
        near = torch.multinomial(present, 1)[:, 0] % width
        wide = right - left + 1
        centre = torch.where(where < 0.5, near + 1.6 * (aside - 0.5) * wide, column * width)
        across = (centre - (left + right) / 2).round()
        reach = torch.minimum(bottom.new_tensor(height // 16), torch.minimum(top, height - 1 - bottom))
        along = ((2 * down - 1) * (reach + 0.5)).round().clamp(-reach, reach)
        layers = torch.cat([images[source], mask[:, None].float()], dim=1)
        flip = mirror < 0.5
        layers = torch.where(flip[:, None, None, None], layers.flip(-1), layers)
        across = torch.where(flip, across + (left + right) - (width - 1), across)
        layers = _moved(layers, along, across)
        row = (bottom + along)[:, None, None]
        front = (layers[:, 3] > 0.5) & (row >= lowest) & (use < 0.5)[:, None, None]
        images = torch.where(front[:, None], layers[:, :3], images)
        labels = torch.where(front, first + number, labels)
        lowest = torch.where(front, row.to(lowest), lowest)
    return images, labels


def _boxes(labels: Int[Tensor, "batch height width"]) -> Int[Tensor, "objects 6"]:
    """Image, label, and bounds (top, left, bottom, right) of every label but `UNSURE`."""
    height, width = labels.shape[1:]
    number = int(labels.max()) + 1 - UNSURE
    image, row, column = torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij")
    index = (image.to(labels.device) * number + labels - UNSURE).flatten()
    ends = []
    for place, largest in ((row, height), (column, width)):
        flat = place.to(labels.device).flatten()
        ends += [
            flat.new_full((len(labels) * number,), start).scatter_reduce_(0, index, flat, how)
            for start, how in ((largest, "amin"), (-1, "amax"))
        ]
    top, bottom, left, right = ends
    both = torch.arange(len(top), device=labels.device)
    boxes = torch.stack([both // number, both % number + UNSURE, top, left, bottom, right], dim=1)
    return boxes[(bottom >= 0) & (boxes[:, 1] != UNSURE)]


def _moved(
    maps: Float[Tensor, "batch channels height width"],
    down: Float[Tensor, " batch"],
    across: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Maps moved by whole pixels, 0 where nothing was."""
    height, width = maps.shape[2:]
    row = torch.arange(height, device=maps.device) - down.long()[:, None]
    column = torch.arange(width, device=maps.device) - across.long()[:, None]
    within = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None]
    batch = torch.arange(len(maps), device=maps.device)[:, None, None]
    found = maps[batch, :, row.clamp(0, height - 1)[:, :, None], column.clamp(0, width - 1)[:, None]]
    return found.movedim(-1, 1) * within[:, None]
