"""Background slots are merged into one; the reconstruction does not change."""

import numpy as np
import pytest
import torch
from videos import write_bars

import objecthood as oh
from objecthood.cli.main import main
from objecthood.nn import merge_background

SIDE = 32
ROWS, COLUMNS = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")


def disc(row, column, radius):
    return ((ROWS - row) ** 2 + (COLUMNS - column) ** 2 < radius**2).float()


@pytest.fixture
def scene():
    """A ground of stripes in two slots, two discs in two, and a slot that holds nearly nothing anywhere."""
    discs = torch.stack([disc(8, 9, 6), disc(22, 21, 7)])
    stripes = (COLUMNS // 4 % 2).float() * (1 - discs.sum(dim=0))
    rest = 1 - discs.sum(dim=0) - stripes
    masks = torch.stack([stripes, discs[0], rest * 0.999, discs[1], rest * 0.001])[None]
    torch.manual_seed(0)
    return masks, torch.rand(1, 5, 3, SIDE, SIDE)


def painted(masks, appearance):
    return (masks[:, :, None] * appearance).sum(dim=1)


def test_the_background_is_merged_and_objects_stay(scene):
    masks, appearance = scene
    united, colours = merge_background(masks, appearance)
    heavier = 0 if masks[0, 0].sum() > masks[0, 2].sum() else 2
    assert torch.allclose(united[0, heavier], masks[0, 0] + masks[0, 2])
    assert (united[0, 2 - heavier] == 0).all()
    for slot in (1, 3, 4):
        assert torch.equal(united[0, slot], masks[0, slot])
        assert torch.equal(colours[0, slot], appearance[0, slot])
    assert torch.allclose(united.sum(dim=1), torch.ones(1, SIDE, SIDE))
    assert torch.allclose(painted(united, colours), painted(masks, appearance), atol=1e-6)


@pytest.mark.parametrize("widest, empty", [(0.25, 1), (0.45, 0)])
def test_the_largest_object_extent_is_an_option(scene, widest, empty):
    united, _ = merge_background(*scene, widest)
    assert (united.sum(dim=(2, 3)) == 0).sum() == empty


def test_nothing_changes_without_background_slots():
    """Not even the largest slot, as long as it is a thing."""
    squares = torch.nn.functional.one_hot(ROWS // 8 * 4 + COLUMNS // 8).permute(2, 0, 1)[None].float()
    appearance = torch.rand(1, 16, 3, SIDE, SIDE)
    united, colours = merge_background(squares, appearance)
    assert torch.equal(united, squares) and torch.equal(colours, appearance)


def test_images_are_merged_independently(scene):
    masks, appearance = scene
    whole = torch.cat([masks, masks.flip(1)]), torch.cat([appearance, appearance.flip(1)])
    for parts, again in zip(merge_background(*whole), merge_background(masks, appearance), strict=True):
        assert torch.allclose(parts[:1], again) and torch.allclose(parts[1:], again.flip(1))


def test_predict_merges_on_request():
    picture = (np.asarray((ROWS // 4 + COLUMNS // 4) % 2)[..., None] * np.array([200, 60, 20])).astype(
        np.uint8
    )
    (plain,) = oh.predict("sprites", picture, restarts=1)
    (united,) = oh.predict("sprites", picture, restarts=1, merge_background=True)
    expected, _ = merge_background(plain.masks[None], plain.appearance[None])
    assert torch.allclose(united.masks, expected[0], atol=1e-6)
    assert torch.equal(united.reconstruction, plain.reconstruction)
    assert (united.masks.sum(dim=(1, 2)) == 0).any(), "both colours of the board reach across it"


def test_merging_is_refused_without_masks(tmp_path, capsys):
    with pytest.raises(ValueError, match="`merge_background` .* these weights predict none"):
        oh.predict("set-clevr", merge_background=True)
    assert (
        main(["predict", "--weights", "set-clevr", "--merge-background", "--out", str(tmp_path / "out")]) != 0
    )
    assert "`merge_background`" in capsys.readouterr().err


def test_videos_are_refused(tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    write_bars(clip)
    assert (
        main(
            ["predict", str(clip), "--weights", "sprites", "--merge-background", "--out", str(tmp_path / "o")]
        )
        == 2
    )
    assert "--merge-background works for images only" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()
