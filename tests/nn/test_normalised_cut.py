"""The normalised cut, the guided filter, and both on the bundled backbone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.linalg import eigh
from threadpoolctl import threadpool_info, threadpool_limits

from objecthood.models.spectral import SpectralSegmenter
from objecthood.nn.backbones import EfficientNetLite0, working_size
from objecthood.nn.consensus_cut import ConsensusCut, View
from objecthood.nn.guided_filter import guided_filter, masks_at_size
from objecthood.nn.normalised_cut import (
    _blas,
    affinity,
    kmeans,
    normalised_cut,
    random_walk_vectors,
)
from objecthood.nn.objectness import ObjectnessHead


def regions(rows=12, columns=18, dim=16, noise=0.1):
    """An embedding of three regions, and their labels [rows, columns]."""
    truth = torch.zeros(rows, columns, dtype=torch.long)
    truth[:, columns // 2 :] = 1
    truth[2:7, 3:7] = 2
    generator = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(3, dim, generator=generator), dim=-1)
    noisy = centres[truth] + noise * torch.randn(rows, columns, dim, generator=generator)
    return F.normalize(noisy, dim=-1), truth


def same_partition(one, other):
    pairs = set(zip(one.flatten().tolist(), other.flatten().tolist(), strict=True))
    return len(pairs) == len(one.unique()) == len(other.unique())


def test_it_is_deterministic_and_leaves_the_global_generator_alone():
    embedding, _ = regions()
    state = torch.random.get_rng_state()
    first, second = ConsensusCut()([embedding]), ConsensusCut()([embedding])
    assert torch.equal(first.labels, second.labels) and torch.equal(first.slots, second.slots)
    assert torch.equal(state, torch.random.get_rng_state())


def test_eigenvectors_are_those_of_the_random_walk():
    embedding, _ = regions()
    weights = affinity(embedding, 0.2, 0.3)
    values, vectors = random_walk_vectors(weights, 5)
    walk = weights / weights.sum(dim=1, keepdim=True)
    assert torch.allclose(walk @ vectors, vectors * values, atol=1e-4)
    expected = torch.linalg.eigvals(walk.double()).real.sort(descending=True).values
    assert expected[0] == pytest.approx(1.0) and torch.allclose(values.double(), expected[1:6], atol=1e-5)


@pytest.mark.parametrize("seed", range(6))
def test_regions_that_nothing_links_are_parted(seed):
    halves = torch.eye(2).repeat_interleave(3, dim=0)[:, None].expand(6, 6, 2)
    assert same_partition(normalised_cut(halves, 2, seed), halves.argmax(dim=-1))


CONSENSUS = {"views": (View(0, 0.2, 0.5),), "partitions": ((3, 2), (4, 2), (5, 2))}


def test_the_consensus_finds_how_many_regions_there_are():
    embedding, truth = regions()
    found = ConsensusCut(**CONSENSUS)([embedding])
    assert same_partition(found.labels, truth), "three, though two kinds of three have more"
    assert torch.allclose(found.attention.sum(dim=0), torch.ones(12, 18), atol=1e-5)
    assert torch.equal(found.attention.argmax(dim=0), found.labels)
    again = ConsensusCut(**CONSENSUS)([embedding])
    assert torch.equal(found.labels, again.labels) and torch.equal(found.attention, again.attention)


def test_the_number_of_segments_can_be_asked_for():
    embedding, _ = regions()
    assert len(ConsensusCut(num_segments=2, **CONSENSUS)([embedding]).slots) == 2
    near, far = (len(ConsensusCut(distance=d, **CONSENSUS)([embedding]).slots) for d in (0.1, 0.9))
    assert near > far


def test_every_view_counts():
    """Two embeddings of two halves each, one of columns, one of rows: together they make quarters."""
    columns, rows = torch.zeros(8, 8, 2), torch.zeros(8, 8, 2)
    columns[:, :4, 0], columns[:, 4:, 1], rows[:4, :, 0], rows[4:, :, 1] = 1, 1, 1, 1
    views = (View(0, 0.1, 1.0), View(1, 0.1, 1.0))
    cut = ConsensusCut(distance=0.4, views=views, partitions=((2, 1),))
    quarters = torch.arange(8)[:, None] // 4 * 2 + torch.arange(8)[None] // 4
    assert same_partition(cut([columns, rows]).labels, quarters)
    assert same_partition(cut([columns]).labels, (quarters % 2))


def test_affinity_falls_with_angle_and_distance():
    embedding = torch.zeros(4, 4, 2)
    embedding[..., 0] = 1
    embedding[0, 1] = torch.tensor([0.0, 1.0])
    weights = affinity(embedding, 0.5, 0.25)
    assert weights[0, 4].item() == pytest.approx(np.exp(-(0.25**2) / (2 * 0.25**2)))
    assert weights[0, 1].item() == pytest.approx(np.exp(-1 / 0.5 - 0.5), rel=1e-5)


def test_differences_within_objects_count_less():
    embedding = torch.zeros(1, 3, 2)
    embedding[0, :2, 0], embedding[0, 2, 1] = 1, 1
    objects = torch.tensor([[0.2, 0.9, 0.5]])
    weights = affinity(embedding, 0.5, 1e3, tolerance=0.4, objects=objects)
    assert weights[1, 2].item() == pytest.approx(np.exp(-(1 - 0.4 * 0.5) / 0.5), rel=1e-4)
    assert weights[0, 2].item() == pytest.approx(np.exp(-(1 - 0.4 * 0.2) / 0.5), rel=1e-4)
    assert torch.equal(weights, weights.T)
    plain = affinity(embedding, 0.5, 1e3)
    assert torch.equal(affinity(embedding, 0.5, 1e3, 0.4), plain), "nothing is known of objects"
    assert torch.equal(affinity(embedding, 0.5, 1e3, 0.0, objects), plain)


def test_views_are_also_plain_tuples(unchecked):
    cut = ConsensusCut(views=((0, 0.2, 0.5), (1, 0.1, 0.3, 0.4)))
    assert cut.views == (View(0, 0.2, 0.5, tolerance=0.0), View(1, 0.1, 0.3, tolerance=0.4))
    assert all(isinstance(view, View) for view in cut.views)


def test_parts_of_an_object_are_joined():
    """Four equally different strips; the first two are of one object."""
    embedding = torch.eye(4).repeat_interleave(4, 0).repeat(8, 1, 1)
    objects = (torch.arange(16) < 8).float().expand(8, 16)
    cut = ConsensusCut(views=(View(0, 0.25, 0.5, 0.6),), partitions=((2, 1), (3, 2), (4, 3)), distance=0.6)
    first, second, *rest = cut([embedding], objects).labels[0, ::4].tolist()
    assert first == second and first not in rest
    first, second, *_ = cut([embedding]).labels[0, ::4].tolist()
    assert first != second


def test_one_unit_of_distance_whatever_the_aspect_ratio():
    square, wide = torch.ones(8, 8, 1), torch.ones(4, 16, 1)
    near = [affinity(grid, 1.0, 0.2)[0, 1].item() for grid in (square, wide)]
    assert near[0] == pytest.approx(near[1])


def test_kmeans_of_equal_points_ends():
    assert kmeans(torch.ones(20, 3), 4, 2, 5, 0).shape == (20,)
    points = torch.tensor([[0.0], [0.1], [5.0], [5.1], [9.0]])
    assert kmeans(points, 3, 3, 10, 0).tolist() in [[a, a, b, b, c] for a, b, c in permutations()]


def permutations():
    return [(a, b, 3 - a - b) for a in range(3) for b in range(3) if a != b]


def test_a_consensus_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"`distance` \(=1.5\) must lie between 0 and 1"):
        ConsensusCut(distance=1.5)
    with pytest.raises(ValueError, match=r"`num_segments` \(=0\) must be at least 1, or None"):
        ConsensusCut(num_segments=0)
    with pytest.raises(ValueError, match=r"`tolerance` in `views` .* must lie between 0 and 1"):
        ConsensusCut(views=(View(0, 0.05, 0.15, 1.5),))
    with pytest.raises(ValueError, match=r"`sides` \(=\(320, 448\)\) must descend"):
        SpectralSegmenter(EfficientNetLite0(), sides=(320, 448))


def test_guided_filter_is_the_local_regression_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    guide, masks = torch.rand(3, 9, 11, generator=generator), torch.rand(2, 9, 11, generator=generator)
    radius, epsilon = 2, 0.01
    slopes, offsets = np.zeros((9, 11, 3)), np.zeros((9, 11))
    image, mask = guide.permute(1, 2, 0).double().numpy(), masks[1].double().numpy()
    for y in range(9):
        for x in range(11):
            window = np.s_[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
            colours, values = image[window].reshape(-1, 3), mask[window].ravel()
            centred = colours - colours.mean(axis=0)
            scatter = centred.T @ centred / len(colours) + epsilon * np.eye(3)
            slopes[y, x] = np.linalg.solve(scatter, centred.T @ (values - values.mean()) / len(colours))
            offsets[y, x] = values.mean() - slopes[y, x] @ colours.mean(axis=0)
    y, x = 4, 0
    window = np.s_[2:7, 0:3]
    expected = slopes[window].mean(axis=(0, 1)) @ image[y, x] + offsets[window].mean()
    assert guided_filter(guide, masks, radius, epsilon)[1, y, x].item() == pytest.approx(expected, abs=1e-4)


def test_masks_follow_the_edge_of_the_image():
    image = torch.zeros(3, 90, 150)
    image[:, :, 72:] = 1  # not at the border of a cell
    masks = torch.zeros(2, 12, 20)
    masks[0, :, :10], masks[1, :, 10:] = 1, 1
    fine = masks_at_size(masks, image)
    assert fine.shape == (2, 90, 150) and torch.allclose(fine.sum(dim=0), torch.ones(90, 150), atol=1e-4)
    edge = (fine[1] > fine[0]).sum(dim=1)
    assert (edge - (150 - 72)).abs().max() <= 1, "bilinear masks would end at column 75"


def test_photographs_keep_their_aspect_ratio():
    wanted = {(480, 640): (272, 368), (320, 320): (320, 320), (10, 4000): (16, 6400)}
    for size, found in wanted.items():
        assert working_size(torch.empty(3, *size), 320 * 320, 16) == found


def test_one_class_has_near_slots_in_two_images():
    """Two textures: the slots of one are nearer across images than those of two within one."""
    segmenter = SpectralSegmenter(cut=ConsensusCut(num_segments=2), sides=(192, 128))
    row, column = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    stripes = ((column // 4) % 2).float() * torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    smooth = (row / 96) * torch.tensor([0.1, 0.5, 0.9])[:, None, None]
    outputs = []
    for edge in (48, 80):
        image = torch.where(column < edge, stripes, smooth)
        output = segmenter.divide(image)
        assert output.masks.shape == (2, 96, 128)
        left = output.masks[:, :, : edge - 12].mean(dim=(1, 2)).argmax()
        labels = output.masks.argmax(dim=0)
        assert ((labels == left) == (column < edge)).float().mean() > 0.9
        outputs.append(output.slots[torch.stack([left, 1 - left])])
    across = (outputs[0] * outputs[1]).sum(dim=-1)
    within = (outputs[0][0] * outputs[0][1]).sum()
    assert across.min() > within + 0.2


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_precision_divide(kind):
    output = SpectralSegmenter(sides=(96,)).to(kind).divide(torch.rand(3, 60, 90))
    assert output.masks.shape[1:] == (60, 90)
    assert torch.allclose(output.masks.sum(dim=0), torch.ones(60, 90), atol=1e-4)


def test_objectness_is_of_the_features_that_it_was_learned_from():
    assert SpectralSegmenter(EfficientNetLite0()).objectness is not None
    for layers in ((5, 4), (4,)):  # the first has as many channels, in another order
        segmenter = SpectralSegmenter(EfficientNetLite0(layers), sides=(96,))
        assert segmenter.objectness is None and segmenter.finer().objectness is None
        assert segmenter.embed(torch.rand(3, 60, 90)).objects is None
    with pytest.raises(ValueError, match="of 5 channels must be of the backbone's 304"):
        SpectralSegmenter(EfficientNetLite0(), objectness=ObjectnessHead(5))


def test_anything_but_one_colour_image_is_refused():
    with pytest.raises(ValueError, match="must be one colour image"):
        SpectralSegmenter(EfficientNetLite0()).divide(torch.zeros(1, 3, 32, 32))
    broken = torch.zeros(3, 32, 32)
    broken[0, 0, 0], broken[1, 2, 3] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="has 2 values that are NaN or infinite.*nan_to_num"):
        SpectralSegmenter(EfficientNetLite0())(broken[None])
    with pytest.raises(ValueError, match="an image of one cell of features cannot be cut; take a higher"):
        SpectralSegmenter(EfficientNetLite0(), sides=(16,)).divide(torch.zeros(3, 32, 32))


def test_eigenvectors_take_one_blas_thread(monkeypatch):
    """Threads of OpenBLAS wait in a loop: on a busy machine an image took 14 CPU seconds instead of 0.6."""
    used = []

    def recorded(matrix, **options):
        used.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return eigh(matrix, **options)

    monkeypatch.setattr("scipy.linalg.eigh", recorded)
    _blas.cache_clear()  # another test may have loaded a BLAS library since
    with threadpool_limits(2, user_api="blas"):  # the default of most machines
        random_walk_vectors(torch.rand(12, 12) + torch.eye(12), 3)
    assert used and set(used) == {1}
