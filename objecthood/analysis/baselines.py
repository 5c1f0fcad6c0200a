"""Baselines without training: connected components of one colour, k-means on colour and position, equal
blocks; on frozen features k-means and one normalised cut.

Their input is that of a model: images, whole clips of frames or motion images (`nn.block_matching`),
statistics of the surroundings of each pixel, or the features that its slots group.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy import ndimage, sparse
from scipy.cluster.vq import kmeans2
from torch import Tensor

from objecthood.nn.normalised_cut import kmeans, normalised_cut
from objecthood.nn.positions import coordinate_grid

POSITION_WEIGHT = 2.0
"""Weight of the position, in sides of the image, beside features of unit length. Better than 1 on the
photographs on which settings were chosen."""
COLOUR_DISTANCE = 0.05
"""RGB distance, in [0, 1] units, below which neighbours are connected. On 64 validation scenes it is better
than 0.02 on CLEVR-like scenes, and as good on sprites."""
STATISTICS_DISTANCE = 0.1
"""The same for local Fourier coefficients (`nn.plane_waves`), whose squares sum to 1 on average. On 48
validation scenes of each level of stripes, 0.05, 0.2, 0.3 and 0.5 are worse on average."""
MOTION_DISTANCE = 0.5
"""The same for compressed motion (`motion.residual`), of which still cells have about 0.1."""
FEWEST_PIXELS = 8
"""Size below which components are merged into the nearest larger one."""


def colour_components(
    images: Float[Tensor, "batch *time channels height width"],
    distance: float = COLOUR_DISTANCE,
    fewest_pixels: int = FEWEST_PIXELS,
) -> Int[Tensor, "batch *time height width"]:
    """Labels of connected regions whose neighbouring pixels differ by less than `distance`.

    Pixels have 4 neighbours, in clips also the same pixel of adjacent frames. Regions of fewer than
    `fewest_pixels` take the label of the nearest larger region, if there is one.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, :, :, 4:] = 1
        >>> colour_components(image)[0, 0].tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """
    labels = [_components(np.moveaxis(image.numpy(), -3, -1), distance, fewest_pixels) for image in images]
    return torch.from_numpy(np.stack(labels))


def _components(
    image: Float[np.ndarray, "*shape channels"], distance: float, fewest_pixels: int
) -> Int[np.ndarray, " *shape"]:
    shape = image.shape[:-1]
    number = np.arange(math.prod(shape)).reshape(shape)
    starts, ends = [], []
    for axis in range(len(shape)):
        near, far = (np.moveaxis(number, axis, 0)[part].ravel() for part in (slice(-1), slice(1, None)))
        step = np.diff(image, axis=axis)
        similar = np.moveaxis(np.linalg.norm(step, axis=-1) < distance, axis, 0).ravel()
        starts.append(near[similar])
        ends.append(far[similar])
    start, end = np.concatenate(starts), np.concatenate(ends)
    edges = sparse.coo_matrix((np.ones(len(start), bool), (start, end)), shape=(number.size, number.size))
    labels = sparse.csgraph.connected_components(edges, directed=False)[1].reshape(shape)
    small = np.bincount(labels.ravel())[labels] < fewest_pixels
    if small.any() and not small.all():
        nearest = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
        labels = labels[tuple(nearest)]
    return np.unique(labels, return_inverse=True)[1].reshape(shape).astype(np.int64)


def colour_kmeans(
    images: Float[Tensor, "batch *time channels height width"],
    num_clusters: int,
    first_index: int = 0,
    position: float = 0.0,
) -> Int[Tensor, "batch *time height width"]:
    """Labels of k-means on colour (k-means++, 20 iterations), in each image or clip.

    Deterministic: image i is seeded by `first_index` + i. `position` is the weight of the coordinates across
    and down, in [0, 1], beside the colours. On validation scenes every weight above 0 was worse on sprites,
    and none was better on CLEVR-like scenes.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, :, :, 4:] = 1
        >>> len(colour_kmeans(image, 2)[0, 0, [0, 3]].unique()), len(colour_kmeans(image, 2).unique())
        (1, 2)
    """
    labels = []
    for index, image in enumerate(images, start=first_index):
        colours = np.moveaxis(image.numpy(), -3, -1)
        points = colours.reshape(-1, colours.shape[-1]).astype(np.float64)
        if position:
            height, width = colours.shape[-3:-1]
            down, across = np.mgrid[:height, :width] / np.reshape([height, width], (2, 1, 1))
            frames = len(points) // (height * width)
            places = np.stack([across, down], axis=-1).reshape(-1, 2)
            points = np.hstack([points, position * np.tile(places, (frames, 1))])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clusters may become empty
            found = kmeans2(points, num_clusters, iter=20, minit="++", seed=index)[1]
        labels.append(found.reshape(colours.shape[:-1]).astype(np.int64))
    return torch.from_numpy(np.stack(labels))


def blocks(
    images: Float[Tensor, "batch *time 3 height width"], num_blocks: int
) -> Int[Tensor, "batch *time height width"]:
    """Labels of equal blocks: the smallest grid, square or with one row less, of at least `num_blocks` cells.

    Example:
        >>> blocks(torch.zeros(1, 3, 4, 4), 4)[0].tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]
    """
    columns = math.ceil(math.sqrt(num_blocks))
    rows = columns - 1 if columns * (columns - 1) >= num_blocks else columns
    height, width = images.shape[-2:]
    row, column = torch.arange(height) * rows // height, torch.arange(width) * columns // width
    labels = row[:, None] * columns + column
    return labels.expand(*images.shape[:-3], height, width).clone()


def feature_kmeans(
    features: Float[Tensor, "batch *time rows columns dim"],
    num_clusters: int,
    first_index: int = 0,
    motion: Float[Tensor, "batch *time rows columns 2"] | None = None,
) -> Int[Tensor, "batch *time rows columns"]:
    """Labels of k-means on features of unit length, their position and, if given, motion, in each image or
    clip: k-means++, best of 3 starts, 15 iterations. Deterministic: image i is seeded by `first_index` + i.

    Example:
        >>> features = torch.zeros(1, 4, 4, 3)
        >>> features[:, :2, :, 0], features[:, 2:, :, 1] = 9, 9
        >>> feature_kmeans(features, 2)[0, :, 0].unique_consecutive().numel()
        2
    """
    rows, columns = features.shape[-3:-1]
    sides = torch.tensor([(rows - 1) / rows, (columns - 1) / columns])  # of the last row and column
    positions = POSITION_WEIGHT * coordinate_grid(rows, columns) * sides
    points = [
        torch.cat([F.normalize(one.float(), dim=-1), positions.expand(*one.shape[:-1], 2)], dim=-1)
        for one in features.cpu()
    ]
    if motion is not None:
        points = [torch.cat(pair, dim=-1) for pair in zip(points, motion.cpu(), strict=True)]
    return _clustered(points, num_clusters, first_index)


def motion_kmeans(
    motion: Float[Tensor, "batch time rows columns 2"], num_clusters: int, first_index: int = 0
) -> Int[Tensor, "batch time rows columns"]:
    """Labels of k-means on motion alone, in each clip; otherwise as `feature_kmeans`.

    Example:
        >>> motion = torch.zeros(1, 2, 4, 4, 2)
        >>> motion[:, :, :2] = 3
        >>> motion_kmeans(motion, 2)[0, :, :, 0].unique_consecutive(dim=-1).shape
        torch.Size([2, 2])
    """
    return _clustered(motion.cpu(), num_clusters, first_index)


def _clustered(points: Iterable[Tensor], num_clusters: int, first_index: int) -> Tensor:
    """Labels of the points [..., dim] of each image or clip, which is seeded by its index."""
    found = [
        kmeans(one.flatten(0, -2), num_clusters, 3, 15, seed).view(one.shape[:-1])
        for seed, one in enumerate(points, start=first_index)
    ]
    return torch.stack(found)


def motion_components(
    motion: Float[Tensor, "batch time rows columns 2"],
) -> Int[Tensor, "batch time rows columns"]:
    """Connected components of similar motion, in space and time (`colour_components`).

    Example:
        >>> motion = torch.zeros(1, 2, 8, 8, 2)
        >>> motion[:, :, 2:5, 2:5] = 3
        >>> motion_components(motion).unique().tolist()
        [0, 1]
    """
    return colour_components(motion.cpu().movedim(-1, -3), MOTION_DISTANCE)


def feature_cut(
    features: Float[Tensor, "batch rows columns dim"], num_segments: int, first_index: int = 0
) -> Int[Tensor, "batch rows columns"]:
    """Labels of one normalised cut of each image's features (`nn.normalised_cut`); image i is seeded by
    `first_index` + i.

    Example:
        >>> features = torch.zeros(1, 6, 6, 3)
        >>> features[:, :3, :, 0], features[:, 3:, :, 1] = 9, 9
        >>> feature_cut(features, 2)[0, :, 0].unique_consecutive().numel()
        2
    """
    embeddings = F.normalize(features.cpu().float(), dim=-1)
    cuts = [normalised_cut(one, num_segments, seed) for seed, one in enumerate(embeddings, start=first_index)]
    return torch.stack(cuts)
