"""Interleaved objects in textures: graded levels that no baseline without learning solves beyond colour."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from places import ROOT
from scenes import check_contract, check_same_anywhere, fingerprint, pictures_per_second
from scipy import ndimage

from objecthood.analysis.floors import of_labels
from objecthood.data.generated.interleaved import DRAWS, FAMILIES, interleaved_objects
from objecthood.data.generated.texture import KINDS, Level, Texture
from objecthood.recipes import RECIPES

LEVELS = get_args(Level)
COLOURLESS = LEVELS[2:]
SCENES = {level: Texture("validation", level=level)[range(60)] for level in LEVELS}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("side", [64, 48])
def test_contract(level, side):
    check_contract(Texture("validation", level=level, resolution=side), side)


@pytest.mark.parametrize("level", LEVELS)
def test_a_scene_is_the_same_in_any_batch_and_order(level):
    check_same_anywhere(Texture(level=level))


def test_splits_seeds_and_levels_differ_and_masks_only_by_split_and_seed():
    kinds = [(split, seed, level) for split in ("train", "test") for seed in (0, 1) for level in LEVELS]
    made = {kind: Texture(*kind)[range(4)] for kind in kinds}
    assert len({fingerprint(scenes) for scenes in made.values()}) == len(kinds)
    assert len({scenes["masks"].numpy().tobytes() for scenes in made.values()}) == 4


def test_scenes_never_change():
    assert {level: fingerprint(Texture("test", level=level)[range(20)])[:16] for level in LEVELS} == GOLDEN


GOLDEN = {
    "solid": "49f6d7dfa3e16dff",
    "tinted": "81a65e5e2897ec52",
    "patterned": "0ac2b7bef0438b17",
    "oriented": "3bb271fb2ceecd2e",
    "shifted": "300b9baa42e4ea34",
    "hidden": "e0d6aa4d5e93fcc6",
}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            {"level": "hard"},
            r"`level` \(='hard'\) must be one of solid, tinted, patterned, oriented, shifted, ",
        ),
        ({"split": "all"}, r"`split` \(='all'\) must be one of train, validation, test"),
        ({"resolution": 0}, r"`resolution` \(=0\) must be at least 1 pixel"),
    ],
)
def test_what_is_unknown_is_refused(unchecked, arguments, told):
    with pytest.raises(ValueError, match=told):
        Texture(**arguments)


def test_two_or_three_objects_each_with_a_tenth_of_the_foreground():
    masks = SCENES["solid"]["masks"]
    counts = masks.flatten(1).amax(dim=1)
    assert set(counts.tolist()) == {2, 3}
    foreground = (masks > 0).flatten(1).double().mean(dim=1)
    assert foreground.min() > 0.3 and foreground.max() < 0.9
    for scene, count in zip(masks, counts, strict=True):
        sizes = scene.flatten().bincount(minlength=count + 1)[1:].double()
        assert (sizes / sizes.sum() > 0.1).all()


def test_objects_reach_through_each_other():
    """Every object lies in three quadrants of the image at least; spirals and combs are of one piece."""
    draws = np.random.default_rng(0).random((60, DRAWS))
    for family in range(len(FAMILIES)):
        draws[:, 0] = (family + 0.5) / len(FAMILIES)
        for labels in interleaved_objects(draws, 64):
            for label in range(1, labels.max() + 1):
                mask = labels == label
                quadrants = [part.any() for half in np.split(mask, 2) for part in np.split(half, 2, axis=1)]
                assert sum(quadrants) >= 3
                if FAMILIES[family].__name__ == "spirals":
                    pieces, _ = ndimage.label(mask, np.ones((3, 3)))
                    sizes = np.bincount(pieces.ravel())[1:]
                    assert sizes.max() > 0.9 * sizes.sum()


def test_solid_surfaces_have_one_colour_each():
    for image, masks in zip(SCENES["solid"]["image"], SCENES["solid"]["masks"], strict=True):
        colours = torch.stack([image[:, masks == label].unique(dim=1)[:, 0] for label in masks.unique()])
        assert all(image[:, masks == label].unique(dim=1).shape[1] == 1 for label in masks.unique())
        apart = torch.cdist(colours, colours) + 9 * torch.eye(len(colours))
        assert apart.min() > 0.1


@pytest.mark.parametrize("level", COLOURLESS)
def test_surfaces_share_their_tones_and_their_mean_colour(level):
    """The colour of a pixel says nothing about its surface."""
    differences = []
    for image, masks in zip(SCENES[level]["image"], SCENES[level]["masks"], strict=True):
        low, high = image.flatten(1).amin(dim=1), image.flatten(1).amax(dim=1)
        means = torch.stack([image[:, masks == label].mean(dim=1) for label in masks.unique()])
        shares = ((means - low) / (high - low)).mean(dim=1)
        assert ((shares - 0.5).abs() < 0.12).all()
        differences.append(shares[1:] - shares[0])
    assert torch.cat(differences).mean().abs() < 0.02


def test_oriented_and_shifted_are_stripes_of_one_period():
    for level in ("oriented", "shifted"):
        image = SCENES[level]["image"].mean(dim=1).numpy()
        spectrum = np.abs(np.fft.fft2(image - image.mean(axis=(1, 2), keepdims=True)))
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64) * 64, np.fft.fftfreq(64) * 64))
        in_ring = spectrum[:, (frequency > 10) & (frequency < 16)] ** 2
        assert (in_ring.sum(axis=1) > 0.4 * (spectrum**2).sum(axis=(1, 2))).all()


def test_hidden_scenes_are_the_same_noise_inside_and_outside():
    image, masks = SCENES["hidden"]["image"].mean(dim=1), SCENES["hidden"]["masks"]
    bright = (image > image.mean(dim=(1, 2), keepdim=True)).double()
    across_border = masks[:, :, 1:] != masks[:, :, :-1]
    equal = (bright[:, :, 1:] == bright[:, :, :-1]).double()
    assert abs(equal[across_border].mean() - equal[~across_border].mean()) < 0.02


def test_patterns_have_equal_shares_of_both_tones():
    along, across = np.meshgrid(np.arange(0, 4, 0.01), np.arange(0, 4, 0.01))
    for pattern in KINDS:
        if pattern is not None:
            assert abs(np.clip(pattern(along, across), -1, 1).mean()) < 0.01, pattern


def test_a_finer_image_shows_the_same_scene():
    coarse, fine = (Texture("test", level="patterned", resolution=side)[range(20)] for side in (64, 192))
    assert (fine["masks"][:, 1::3, 1::3] == coarse["masks"]).all()
    assert torch.allclose(fine["image"][..., 1::3, 1::3], coarse["image"], atol=1e-5)


@pytest.mark.parametrize("level", COLOURLESS)
def test_no_baseline_finds_what_colours_do_not_show(level):
    recipe = replace(RECIPES["sprites"], data=f"texture-{level}")
    found = of_labels(recipe, num_scenes=32)
    assert len(found) == 4 and all(abs(scores["fg_ari"]) < 0.1 for scores in found.values()), found


def test_published_floors_fall_with_the_level():
    levels = json.loads((ROOT / "results" / "texture-floors.json").read_text())["levels"]
    floors = [key for key in levels["solid"] if key != "cpu_seconds"]
    highest = [max(levels[level][floor]["fg_ari"]["mean"] for floor in floors) for level in LEVELS]
    assert highest[0] > 0.9 > highest[1] > max(highest[2:]) and all(value <= 0.1 for value in highest[2:])


def test_five_hundred_images_a_second():
    assert pictures_per_second(Texture(), 512) >= 500
