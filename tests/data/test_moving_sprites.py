"""Moving sprites and camouflage: the same clips for ever, and a truth that is what the frames show."""

import numpy as np
import pytest
import torch
from scenes import check_same_anywhere
from timing import cpu_seconds
from torch.nn import functional

from objecthood.data.generated.camouflage import Camouflage
from objecthood.data.generated.moving_sprites import SPEED, MovingSprites
from objecthood.data.generated.silhouettes import AREAS, REACH, ellipse, heart, square
from objecthood.data.generated.trajectories import bounce, circle

PLAIN = MovingSprites("test", frames=12)
KINDS = {
    "plain": PLAIN,
    "coloured": MovingSprites("test", frames=12, background="coloured", camera=2.0),
    "textured": MovingSprites("test", frames=12, background="textured", camera=2.0),
    "camouflage": Camouflage("test", frames=12),
    "camouflage, camera": Camouflage("test", frames=12, camera=True),
}
CLIPS = {name: data[range(40)] for name, data in KINDS.items()}
ALL = pytest.mark.parametrize("name", KINDS)


@ALL
def test_contract(name):
    clips = CLIPS[name]
    assert clips["image"].shape == (40, 12, 3, 64, 64) and clips["image"].dtype == torch.float32
    assert clips["image"].min() >= 0 and clips["image"].max() <= 1
    assert clips["masks"].shape == (40, 12, 64, 64) and clips["masks"].dtype == torch.int64
    assert clips["flow"].shape == (40, 12, 2, 64, 64) and clips["flow"].dtype == torch.float32
    objects = clips["velocity"].shape[2]
    assert clips["masks"].max() <= objects and clips["visibility"].shape == (40, 12, objects)
    assert (
        clips["kind"].shape == (40, objects)
        and ((clips["kind"] >= 0) | (clips["visibility"].amax(1) == 0)).all()
    )
    is_seen = torch.stack([(clips["masks"] == n + 1).any((2, 3)) for n in range(objects)], dim=-1)
    assert (is_seen == (clips["visibility"] > 0)).all() and clips["visibility"].max() == 1


@ALL
def test_a_clip_is_the_same_in_any_batch_and_order(name):
    check_same_anywhere(KINDS[name])


def test_a_longer_clip_begins_like_a_shorter_one_and_seeds_differ():
    short, long = (MovingSprites("train", 3, frames=n)[[5]] for n in (3, 12))
    assert all(torch.equal(short[key], long[key][:, :3]) for key in ("image", "masks", "flow", "velocity"))
    other = MovingSprites("train", 4, frames=3)[[5]]
    assert not torch.equal(short["image"], other["image"])


@ALL
def test_flow_leads_each_pixel_to_the_same_object_or_behind_another(name):
    """Moved by the flow, a pixel of an object lies on the object, unless a later one covers it."""
    clips = CLIPS[name]
    masks, flow = clips["masks"][:, :-1], clips["flow"][:, :-1]
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    across, down = columns + flow[:, :, 0], rows + flow[:, :, 1]
    inside = (across >= 1) & (across <= 62) & (down >= 1) & (down <= 62)
    after = functional.grid_sample(
        clips["masks"][:, 1:].flatten(0, 1)[:, None].float(),
        torch.stack([across, down], -1).flatten(0, 1) * 2 / 63 - 1,
        mode="nearest",
        align_corners=True,
    ).view_as(masks)
    moved = inside & (masks > 0)
    at_border = (after < masks) & moved  # a pixel on an edge may fall off it by rounding to pixels
    assert at_border.sum() / moved.sum() < (0.06 if "camouflage" not in name else 1e-9)
    assert ((after >= masks) & moved).sum() / moved.sum() > 0.93


@ALL
def test_camouflaged_or_not_colours_travel_with_the_flow(name):
    clips = CLIPS[name]
    if name.startswith("camouflage"):  # whole pixels: exact, except where one surface covers another
        flow = clips["flow"].long()
        rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
        row, column = rows + flow[:, :-1, 1], columns + flow[:, :-1, 0]
        inside = (row >= 0) & (row < 64) & (column >= 0) & (column < 64)
        place = (row.clamp(0, 63) * 64 + column.clamp(0, 63))[:, :, None].expand(-1, -1, 3, -1, -1)
        there = clips["image"][:, 1:].flatten(3).gather(3, place.flatten(3)).view_as(clips["image"][:, 1:])
        same = (there == clips["image"][:, :-1]).all(2) | ~inside
        assert same.float().mean() > 0.9
        assert (clips["velocity"].abs().sum(-1)[clips["visibility"] > 0] > 0).float().mean() > 0.95
    else:
        speed = clips["velocity"].norm(dim=-1)
        moving = speed[speed > 0]
        assert SPEED[0] * 64 - 1e-4 <= moving.min() and moving.max() <= SPEED[1] * 64 + 1e-4
        still = (speed == 0)[clips["visibility"] > 0].float().mean()
        assert 0.2 < still < 0.6


def test_sprites_leave_enter_and_cover_each_other():
    seen = MovingSprites("test", frames=24)[range(60)]["visibility"]
    there = seen.amax(1) > 0
    assert ((seen[:, 0] == 0) & (seen[:, -1] > 0)).sum() > 5, "some enter"
    assert ((seen[:, 0] > 0) & (seen[:, -1] == 0)).sum() > 5, "some leave"
    hidden = (seen[:, 1:-1] < 0.3).any(1) & (seen[:, 0] > 0.8) & (seen[:, -1] > 0.3) & there
    assert hidden.sum() > 0, "some are covered for a while"


def test_no_frame_of_camouflage_shows_anything():
    """Within a frame, pixels on objects, off them and across their borders have the same statistics."""
    clips = Camouflage("test", frames=1)[range(300)]
    image, on = clips["image"][:, 0], clips["masks"][:, 0] > 0
    values = [image.permute(0, 2, 3, 1)[which] for which in (on, ~on)]
    for moment in (1, 2):
        means = [(value**moment).mean().item() for value in values]
        assert abs(means[0] - means[1]) < 0.002
    difference = (image[..., 1:] - image[..., :-1]).square().mean(1)
    border = on[..., 1:] != on[..., :-1]
    within, across = difference[~border].mean().item(), difference[border].mean().item()
    assert abs(within - 1 / 6) < 0.002 and abs(across - 1 / 6) < 0.004  # 18,000 pairs: deviation 0.001
    # Two frames do: pixels of still ground stay, those of objects change.
    two = Camouflage("test", frames=2)[range(20)]
    still = (two["image"][:, 0] == two["image"][:, 1]).all(1)
    ground = (two["masks"] == 0).all(1)
    assert still[ground].all() and not still[(two["masks"] > 0).all(1)].any()


def test_area_and_reach_of_shapes():
    grid = (np.arange(2000) + 0.5) / 500 - 2
    x, y = np.meshgrid(grid, grid)
    for shape, area in zip((square, ellipse, heart), AREAS, strict=True):
        covered = shape(x, y)
        assert abs(covered.mean() * 16 - area) < 2e-3
        assert np.hypot(x, y)[covered].max() < REACH


def test_ways():
    way = bounce(np.array(0.2), np.array(0.13), np.arange(60), -0.25, 1.25)
    assert -0.25 <= way.min() < -0.1 and 1.1 < way.max() <= 1.25
    chords = np.linalg.norm(
        np.diff(circle(np.array([1.0]), np.array([0.3]), np.arange(99), 8.0), axis=0), axis=1
    )
    assert np.abs(chords - 1).max() < 0.01


def test_clips_are_made_quickly():
    assert cpu_seconds(lambda: PLAIN[range(64)], limit=3) < 0.004 * 64 * 12, "0.0003 s a frame were measured"


@pytest.mark.parametrize(
    "make, what",
    [
        (lambda: MovingSprites(background="stripes"), "`background`"),
        (lambda: MovingSprites(frames=0), "`frames`"),
        (lambda: MovingSprites(camera=9), "`camera`"),
        (lambda: MovingSprites("holdout"), "`split`"),
        (lambda: Camouflage(frames=0), "`frames`"),
    ],
)
def test_impossible_clips_are_refused(make, what, unchecked):
    with pytest.raises(ValueError, match=what) as caught:
        make()
    assert "\n" not in str(caught.value)
