"""Textures as plane waves, what neighbours say, and slots that are textures."""

import dataclasses
import math

import torch

from objecthood import metrics
from objecthood.analysis.floors import of_labels
from objecthood.data.generated.texture import Texture
from objecthood.models.texture_layers import standardised
from objecthood.nn.label_field import LabelField
from objecthood.nn.plane_waves import PlaneWaves, dominant_frequencies, local_coefficients
from objecthood.nn.texture_grouping import joined
from objecthood.recipes import RECIPES

PIXELS = (torch.arange(64) + 0.5) / 64


def wave(across, down, phase=0.0):
    return torch.cos(2 * math.pi * (across * PIXELS + down * PIXELS[:, None]) + phase)


def test_a_mask_finds_the_wave_below_it_between_points_of_the_grid():
    waves, masks = PlaneWaves(64), torch.zeros(1, 2, 64, 64)
    masks[0, 0, :, :20], masks[0, 1, :, 20:] = 1, 1
    image = torch.where(masks[0, 0] > 0, wave(9.1, 4.4), wave(-5.6, 8.3))
    found = waves.fit(image[None], masks)
    wanted = torch.tensor([[9.1, 4.4], [5.6, -8.3]])
    assert (found[0, :, :2] - wanted).abs().max() < 0.2
    assert ((waves(found)[0] - image) * masks[0]).abs().sum() / 64**2 < 0.1


def test_the_frequency_of_stripes_is_found_across_jumps_of_their_phase():
    """Opposite phases in equal shares extinguish the peak of the spectrum."""
    image = torch.cat([wave(9, 5)[:, :32], wave(9, 5, math.pi)[:, 32:]], dim=1)[None]
    (found,) = dominant_frequencies(PlaneWaves(64), image, 1)[0]
    assert (found - torch.tensor([9.0, 5.0])).abs().max() < 0.15
    maps = local_coefficients(PlaneWaves(64), image, 1)[0, :, 8:-8]
    left, right = maps[:, :, 8:24].mean(dim=(1, 2)), maps[:, :, 40:56].mean(dim=(1, 2))
    assert torch.cosine_similarity(left, right, dim=0) < -0.95, "the phase tells the halves apart"


def test_the_prior_of_a_pixel_does_not_know_the_pixel():
    field, masks = LabelField(), torch.full((1, 2, 9, 9), 0.5)
    changed = masks.clone()
    changed[0, :, 4, 4] = torch.tensor([1.0, 0.0])
    before, after = (field.neighbours(one, centre=False)[0, :, 4, 4] for one in (masks, changed))
    assert torch.equal(before, after)
    assert not torch.equal(*(field.neighbours(one, centre=False)[0, :, 4, 5] for one in (masks, changed)))


def test_pseudolikelihood_learns_how_far_errors_can_be_trusted():
    masks = torch.zeros(1, 2, 16, 16)
    masks[0, 0, :, :8], masks[0, 1, :, 8:] = 1, 1
    exact = 1 - masks
    trusted = {}
    for name, errors in (("exact", exact), ("noisy", (exact + 0.6 * torch.rand(1, 2, 16, 16)).clamp(0, 1))):
        field = LabelField()
        before = field.pseudolikelihood(errors, masks).item()
        optimizer = torch.optim.Adam(field.parameters(), lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            field.pseudolikelihood(errors, masks).backward()
            optimizer.step()
        assert field.pseudolikelihood(errors, masks).item() < before
        trusted[name] = field.log_precision.item()
    assert trusted["exact"] > trusted["noisy"] + 0.5


def test_slots_of_one_texture_are_joined_and_others_are_not():
    masks = torch.zeros(1, 3, 64, 64)
    masks[0, 0, :, :20], masks[0, 1, :, 20:40], masks[0, 2, :, 40:] = 1, 1, 1
    layers = torch.stack([wave(9, 5), wave(9.1, 5), wave(9, 5, math.pi / 2)])[None]
    found = joined(masks, layers)
    assert torch.equal(found[0, 0], masks[0, :2].sum(dim=0)) and not found[0, 1].any()
    assert torch.equal(found[0, 2], masks[0, 2])


def test_angles_and_phases_of_stripes_separate_objects():
    for level, frequencies in (("oriented", 4), ("shifted", 1)):
        recipe = dataclasses.replace(RECIPES["textures"], num_frequencies=frequencies)
        scenes = Texture("validation", level=level)[range(4)]
        output = recipe.build_model().segment(scenes["image"])
        scores = metrics.adjusted_rand_index(scenes["masks"], output.masks, ignore_background=False)
        assert scores.mean() > 0.8, (level, scores)
        contrast = standardised(scenes["image"]).square().mean()
        assert (output.reconstruction - scenes["image"]).square().mean() < 0.2 * contrast


def test_noise_has_no_texture():
    scenes = Texture("validation", level="hidden")[range(4)]
    output = RECIPES["textures"].build_model().segment(scenes["image"])
    scores = metrics.adjusted_rand_index(scenes["masks"], output.masks, ignore_background=False)
    assert scores.abs().mean() < 0.1


def test_floors_see_the_statistics_from_which_slots_start():
    found = of_labels(RECIPES["textures"], "validation", num_scenes=8)
    assert found["statistics_kmeans"]["fg_ari"] > 0.4 > found["kmeans"]["fg_ari"]
    assert {"statistics_components", "statistics_kmeans_position"} <= found.keys()
