"""Sprites: two to five of them on a plain background, and the same scenes for ever."""

import numpy as np
import pytest
import torch
from scenes import (
    check_contract,
    check_same_anywhere,
    fingerprint,
    fingerprint_elsewhere,
    pictures_per_second,
)

from objecthood.data.generated.silhouettes import ellipse, heart, rgb_from_hsv, square
from objecthood.data.generated.sprites import Sprites, silhouettes_of

GREY, COLOURED = (Sprites(background=kind)[range(500)] for kind in ("grey", "coloured"))


@pytest.mark.parametrize("side", [64, 32, 128])
def test_contract(side):
    check_contract(Sprites("validation", resolution=side), side)


@pytest.mark.parametrize("background", ["grey", "coloured"])
def test_a_scene_is_the_same_in_any_batch_and_order(background):
    check_same_anywhere(Sprites(background=background))


def test_a_scene_is_the_same_in_another_process(tmp_path):
    expression = "sprites.Sprites('test', 3, 'coloured')[range(9)]"
    assert fingerprint_elsewhere(expression, tmp_path) == fingerprint(
        Sprites("test", 3, "coloured")[range(9)]
    )


def test_splits_and_seeds_differ():
    kinds = [(split, seed) for split in ("train", "validation", "test") for seed in (0, 1)]
    assert len({fingerprint(Sprites(*kind)[range(4)]) for kind in kinds}) == len(kinds)


def test_backgrounds_share_everything_else():
    assert torch.equal(GREY["masks"], COLOURED["masks"])
    objects = (GREY["masks"] > 0)[:, None].expand_as(GREY["image"])
    assert torch.equal(GREY["image"][objects], COLOURED["image"][objects])


def test_an_unknown_background_is_refused(unchecked):
    with pytest.raises(ValueError, match="`background` .='red'. must be one of grey, coloured"):
        Sprites(background="red")


def test_scenes_never_change():
    assert {name: fingerprint(Sprites(*name)[range(20)]) for name in GOLDEN} == GOLDEN


GOLDEN = {
    ("train", 0, "grey"): "802a207162fab06a22fcc0b2bb87ec855cf6f3bae12e4525e2f30c6f62cf7e6f",
    ("test", 0, "grey"): "a00eab45e7e229f960b5cb032e2d26d919579a6f31eadad7677464e9f282b63b",
    ("test", 0, "coloured"): "adfa51dd915ce71b96721c56aa71b2947e8c7437bc4793b2ebfacf1503366f4c",
    ("train", 7, "grey", 48): "65e80431f493822fa4da56da284fae918eff127b74541faa1b0d55ecd1bf6317",
}


def test_two_to_five_sprites_in_equal_shares():
    highest = GREY["masks"].flatten(1).amax(dim=1)
    assert set(highest.tolist()) == {2, 3, 4, 5}
    assert all(abs((highest == number).double().mean() - 0.25) < 0.07 for number in (2, 3, 4, 5))
    present = torch.stack([(GREY["masks"] == label).flatten(1).any(dim=1) for label in range(1, 6)], dim=1)
    assert (present.sum(dim=1) <= highest).all(), "a covered sprite may be absent"
    assert present.sum(dim=1).double().mean() > 0.95 * highest.double().mean()


@pytest.mark.parametrize("scenes, is_grey", [(GREY, True), (COLOURED, False)], ids=["grey", "coloured"])
def test_every_label_has_one_colour(scenes, is_grey):
    for image, masks in zip(scenes["image"], scenes["masks"], strict=True):
        for label in masks.unique():
            color = image[:, masks == label]
            assert (color == color[:, :1]).all()
            if label > 0:
                assert color.amax() >= 0.6 - 1e-6 and color.amin() <= 0.5 * color.amax() + 1e-6
        background = image[:, masks == 0][:, 0]
        assert (len(background.unique()) == 1) == is_grey


def test_sizes_stay_in_their_range():
    areas = torch.stack([(GREY["masks"] == label).double().mean(dim=(1, 2)) for label in range(1, 6)])
    assert areas.max() < (2 * 0.18) ** 2
    front = areas.max(dim=0).values
    assert front.min() > 0.012


def test_shapes_are_what_they_are_called():
    def at(shape, *points):
        return shape(*np.array(points, np.float32).T).tolist()

    assert at(square, (0.8, 0.8), (-0.8, 0.8), (0.9, 0)) == [True, True, False]
    assert at(ellipse, (1, 0), (0, 0.65), (0, 0.8), (0.9, 0.6)) == [True, True, False, False]
    assert at(heart, (0.6, 0.6), (-0.6, 0.6), (0, 1.0), (0, -0.8)) == [True, True, False, True]


def test_later_sprites_cover_earlier_ones():
    draws = np.full((2, 8), 0.1)  # both squares, in one place, the second smaller
    draws[0, 1] = 0.9
    first, second = silhouettes_of(draws, 64)
    assert second.sum() > 20 and (first & second == second).all()


@pytest.mark.parametrize(
    "hsv, rgb",
    [
        ((0, 1, 1), (1, 0, 0)),
        ((1 / 3, 1, 1), (0, 1, 0)),
        ((2 / 3, 0.5, 0.8), (0.4, 0.4, 0.8)),
        ((0.7, 0, 0.3), (0.3,) * 3),
    ],
)
def test_colours_of_known_hues(hsv, rgb):
    np.testing.assert_allclose(rgb_from_hsv(*np.array(hsv, np.float64)[:, None])[0], rgb, atol=1e-12)


def test_two_thousand_images_a_second():
    assert pictures_per_second(Sprites(), 1000) >= 2000
