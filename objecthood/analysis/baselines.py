"""Object masks without learning: the floors that a learned model has to beat.

Connected components of one colour, k-means on colour, and equal blocks, of images or of whole
clips. What they are given is what a model sees: frames, or motion shown as images (`nn.slot_motion_by_matching`).
"""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import ndimage, sparse
from scipy.cluster.vq import kmeans2
from torch import Tensor

COLOUR_DISTANCE = 0.05
"""RGB distance, in [0, 1] units, below which neighbours are joined. On 64 validation scenes it is better than
0.02 on CLEVR-like scenes, and as good on sprites."""
FEWEST_PIXELS = 8
"""Components smaller than this go to the nearest larger one."""


def colour_components(
    images: Float[Tensor, "batch *time 3 height width"],
    distance: float = COLOUR_DISTANCE,
    fewest_pixels: int = FEWEST_PIXELS,
) -> Int[Tensor, "batch *time height width"]:
    """Labels of connected regions whose neighbouring pixels differ by less than `distance`.

    Pixels have 4 neighbours, in clips also the same place in the frame before and after. Regions of fewer
    than `fewest_pixels` take the label of the nearest larger region; if none is larger, they stay.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, :, :, 4:] = 1
        >>> colour_components(image)[0, 0].tolist()
        [0, 0, 0, 0, 1, 1, 1, 1]
    """
    labels = [_components(np.moveaxis(image.numpy(), -3, -1), distance, fewest_pixels) for image in images]
    return torch.from_numpy(np.stack(labels))


def _components(
    image: Float[np.ndarray, "*places channels"], distance: float, fewest_pixels: int
) -> Int[np.ndarray, " *places"]:
    places = image.shape[:-1]
    number = np.arange(math.prod(places)).reshape(places)
    starts, ends = [], []
    for axis in range(len(places)):
        near, far = (np.moveaxis(number, axis, 0)[part].ravel() for part in (slice(-1), slice(1, None)))
        step = np.diff(image, axis=axis)
        alike = np.moveaxis(np.linalg.norm(step, axis=-1) < distance, axis, 0).ravel()
        starts.append(near[alike])
        ends.append(far[alike])
    start, end = np.concatenate(starts), np.concatenate(ends)
    edges = sparse.coo_matrix((np.ones(len(start), bool), (start, end)), shape=(number.size, number.size))
    labels = sparse.csgraph.connected_components(edges, directed=False)[1].reshape(places)
    small = np.bincount(labels.ravel())[labels] < fewest_pixels
    if small.any() and not small.all():
        nearest = ndimage.distance_transform_edt(small, return_distances=False, return_indices=True)
        labels = labels[tuple(nearest)]
    return np.unique(labels, return_inverse=True)[1].reshape(places).astype(np.int64)


def colour_kmeans(
    images: Float[Tensor, "batch *time 3 height width"], num_clusters: int, first_index: int = 0
) -> Int[Tensor, "batch *time height width"]:
    """Labels of `num_clusters` means of colour (k-means++, 20 rounds), in each image or clip.

    Positions are left out: on validation scenes of sprites every weight of them was worse, on CLEVR-like
    scenes none was better. Deterministic: image i is seeded by `first_index` + i.

    Example:
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, :, :, 4:] = 1
        >>> len(colour_kmeans(image, 2)[0, 0, [0, 3]].unique()), len(colour_kmeans(image, 2).unique())
        (1, 2)
    """
    labels = []
    for index, image in enumerate(images, start=first_index):
        colours = np.moveaxis(image.numpy(), -3, -1)
        points = colours.reshape(-1, 3).astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a cluster may lose all its points: then there is one fewer
            found = kmeans2(points, num_clusters, iter=20, minit="++", seed=index)[1]
        labels.append(found.reshape(colours.shape[:-1]).astype(np.int64))
    return torch.from_numpy(np.stack(labels))


def blocks(
    images: Float[Tensor, "batch *time 3 height width"], num_blocks: int
) -> Int[Tensor, "batch *time height width"]:
    """Labels of equal blocks: the smallest grid, square or one row less, of at least `num_blocks` cells.

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
