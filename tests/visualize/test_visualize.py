"""Images and animations: the right colour at the right place, the same colour for a slot everywhere."""

import doctest

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from torch.nn.functional import one_hot

from objecthood.visualize import animation, figures
from objecthood.visualize.animation import attention_frames, save_animation
from objecthood.visualize.figures import (
    attention_figure,
    indexed_png,
    masks_figure,
    overlay,
    slot_colors,
    slots_figure,
)

BLUE, ORANGE, GREEN, RED = (tuple(color) for color in slot_colors(4).tolist())

# Linear RGB as protanopes and deuteranopes see it: Machado, Oliveira, Fernandes 2009, severity 1.0.
PROTANOPE = [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
]
DEUTERANOPE = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
RGB_TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def quarters(side: int = 8) -> torch.Tensor:
    """Labels 0 1 / 2 3, one in each quarter of a square."""
    half = torch.arange(side) // (side // 2)
    return 2 * half[:, None] + half


def soft(labels: torch.Tensor, slots: int = 4) -> torch.Tensor:
    return one_hot(labels, slots).permute(2, 0, 1).float()


def lab(colors: np.ndarray, vision: np.ndarray) -> np.ndarray:
    parts = colors / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ vision.T, 0, 1) @ np.array(RGB_TO_XYZ).T / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


@pytest.mark.parametrize("vision", [np.eye(3), np.array(PROTANOPE), np.array(DEUTERANOPE)])
def test_first_eight_colors_are_far_apart_for_every_eye(vision):
    seen = lab(slot_colors(8), vision)
    distance = np.linalg.norm(seen[:, None] - seen, axis=-1) + 1000 * np.eye(8)
    assert distance.min() > 20


def test_colors_do_not_depend_on_how_many_are_asked_for():
    many = slot_colors(256)
    assert many.dtype == np.uint8 and many.shape == (256, 3)
    for count in (0, 1, 4, 8, 11, 24):
        assert (slot_colors(count) == many[:count]).all()
    assert len({tuple(color) for color in many.tolist()}) == 256


@pytest.mark.parametrize("masks", [quarters(), soft(quarters()), soft(quarters(4)), quarters(4)])
def test_overlay_puts_each_color_on_its_slot(masks):
    picture = overlay(torch.zeros(3, 8, 8), masks, opacity=1.0)
    assert picture.size == (8, 8)
    corners = [picture.getpixel(place) for place in ((0, 0), (7, 0), (0, 7), (7, 7))]
    assert corners == [BLUE, ORANGE, GREEN, RED]


def test_overlay_mixes_image_and_color():
    white = torch.ones(3, 8, 8)
    none = torch.zeros(8, 8, dtype=torch.int64)
    assert overlay(white, none, opacity=0.0).getpixel((4, 4)) == (255, 255, 255)
    assert overlay(white, none, opacity=0.5).getpixel((4, 4)) == tuple(round((255 + c) / 2) for c in BLUE)


def test_bands_of_a_large_image_leave_no_seam(monkeypatch):
    """An image is tinted some rows at a time, whose contours must not know of it."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(3, 700, 400, generator=generator)
    # Every band of 256 rows ends where labels change.
    labels = (
        torch.randint(4, (22, 8), generator=generator).repeat_interleave(32, 0)[:700].repeat_interleave(50, 1)
    )
    labels[:30] = -1
    in_bands = np.asarray(figures.overlay(picture, labels))
    monkeypatch.setattr(figures, "BAND", 10_000)
    assert np.array_equal(in_bands, np.asarray(figures.overlay(picture, labels)))


def test_contours_run_along_borders_only():
    plain = overlay(torch.zeros(3, 16, 16), quarters(16), opacity=0.5, contours=False)
    lined = overlay(torch.zeros(3, 16, 16), quarters(16), opacity=0.5, contours=True)
    changed = np.asarray(ImageChops.difference(plain, lined)).any(-1)
    on_border = np.zeros((16, 16), dtype=bool)
    on_border[7:9, :] = on_border[:, 7:9] = True
    assert (changed == on_border).all()
    assert lined.getpixel((0, 7)) == BLUE and lined.getpixel((0, 8)) == GREEN


def test_ignored_pixels_stay_as_they_are():
    labels = torch.full((6, 6), -1)
    assert overlay(torch.ones(3, 6, 6), labels, opacity=1.0).getpixel((3, 3)) == (255, 255, 255)
    labels[:, 3:] = 1
    picture = overlay(torch.ones(3, 6, 6), labels, opacity=1.0)
    assert picture.getpixel((0, 0)) == (255, 255, 255) and picture.getpixel((5, 0)) == ORANGE


def test_a_batch_gives_a_list():
    images = torch.rand(3, 3, 8, 8)
    masks = torch.rand(3, 4, 8, 8).softmax(1)
    pictures = overlay(images, masks, opacity=0.3, contours=False)
    assert [picture.size for picture in pictures] == [(8, 8)] * 3
    for image, its_masks, picture in zip(images, masks, pictures, strict=True):
        assert overlay(image, its_masks, opacity=0.3, contours=False).tobytes() == picture.tobytes()


def test_gradients_half_precision_and_values_out_of_range_are_taken():
    image = (torch.rand(3, 8, 8) * 3 - 1).requires_grad_()
    assert overlay(image, torch.rand(4, 8, 8).bfloat16()).size == (8, 8)
    far = torch.full((3, 8, 8), 7.0)
    assert figures.to_image(far).getpixel((0, 0)) == (255, 255, 255)


def test_slots_figure_shows_each_slot_alone():
    labels = quarters(32)
    colors = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
    image = colors[labels].permute(2, 0, 1)
    appearance = colors[:, :, None, None].expand(4, 3, 32, 32)
    rebuilt = torch.full_like(image, 0.5)
    batch = [tensor[None].expand(2, *tensor.shape) for tensor in (image, rebuilt, soft(labels), appearance)]
    figure = slots_figure(*batch, scale=3)
    step = 96 + figures.GAP
    left, top = figures.MARGIN, figures.MARGIN + figures.TEXT_SIZE + 2 * figures.GAP
    assert figure.size == (2 * left + 7 * step - figures.GAP, top + 2 * step - figures.GAP + left)

    def at(column, row, x, y):
        return figure.getpixel((left + column * step + x, top + row * step + y))

    for row in (0, 1):
        assert at(0, row, 10, 10) == (255, 0, 0) and at(0, row, 90, 10) == (0, 255, 0)
        assert at(1, row, 10, 10) == (128, 128, 128)
        assert at(2, row, 10, 10) == tuple(
            round(0.3 * a + 0.7 * b) for a, b in zip((255, 0, 0), BLUE, strict=True)
        )
        assert at(3, row, 10, 10) == (255, 0, 0) and at(4, row, 90, 10) == (0, 255, 0)
        for column, x in ((3, 90), (4, 10), (6, 10)):
            two_squares = {at(column, row, x - 8, 10), at(column, row, x, 10)}
            assert two_squares == {(grey,) * 3 for grey in figures.CHEQUER}
    bars = [figure.getpixel((left + column * step + 5, top - figures.GAP + 1)) for column in range(7)]
    assert bars == [figures.PAPER] * 3 + [BLUE, ORANGE, GREEN, RED]


@pytest.mark.parametrize(("side", "cell"), [(35, 105), (64, 128), (96, 96), (128, 128)])
def test_small_images_are_enlarged_until_they_can_be_read(side, cell):
    image, masks = torch.rand(1, 3, side, side), torch.rand(1, 1, side, side)
    figure = slots_figure(image, image, masks, image[:, None])
    assert figure.width == 2 * figures.MARGIN + 4 * (cell + figures.GAP) - figures.GAP


def test_headings_are_written():
    """Without letters, the strip above the cells would be bare."""
    image = torch.zeros(1, 3, 96, 96)
    figure = slots_figure(image, image, torch.ones(1, 1, 96, 96), image[:, None])
    top = figures.MARGIN + figures.TEXT_SIZE
    for column in range(4):
        left = figures.MARGIN + column * (96 + figures.GAP)
        strip = np.asarray(figure.crop((left, figures.MARGIN, left + 96, top)))
        assert strip.max() > 180 and (strip == figures.PAPER).mean() > 0.4


@pytest.mark.parametrize("slots, rows, last", [(7, 1, 9), (9, 1, 11), (10, 2, 1), (13, 2, 4), (22, 3, 2)])
def test_many_masks_are_shown_in_rows_of_eleven(slots, rows, last):
    masks = torch.zeros(slots, 120, 120)
    masks[-1] = 1
    figure = masks_figure(torch.zeros(3, 120, 120), masks)
    width, height = figures.MARGIN + last * 128 - 8, figure.height // rows
    assert figure.width == min(slots + 2, 11) * 128 - 8 + 2 * figures.MARGIN
    assert figure.height == rows * masks_figure(torch.zeros(3, 120, 120), masks[-1:]).height
    color = figure.getpixel((width - 60, rows * height - figures.MARGIN - 60))
    assert np.abs(np.subtract(color, slot_colors(slots)[-1].astype(int))).max() < 8
    top = (rows - 1) * height + figures.MARGIN + figures.TEXT_SIZE + figures.GAP
    assert figure.getpixel((width - 60, top)) == tuple(slot_colors(slots)[-1]), "bar of the last slot"
    right = np.asarray(figure.crop((width + 1, figure.height - height, figure.width, figure.height)))
    assert (right == figures.PAPER).all()


def test_masks_of_a_photograph_are_shown_small_each_in_its_color():
    figure = masks_figure(torch.zeros(3, 1200, 1600), soft(quarters()))
    assert figure.width < 1600 and figure.height < 250
    left, top = figure.width - 4 * (213 + 8) - 12, figure.height - 20 - 160
    for slot, color in enumerate((BLUE, ORANGE, GREEN, RED)):
        cell = figure.crop((left + slot * 221, top, left + slot * 221 + 213, top + 160))
        inside = cell.getpixel((53 + 107 * (slot % 2), 40 + 80 * (slot // 2)))
        outside = cell.getpixel((160 - 107 * (slot % 2), 120 - 80 * (slot // 2)))
        assert np.abs(np.subtract(inside, color)).max() < 8 and max(outside) < 32


@pytest.mark.parametrize("with_reconstruction", [False, True])
def test_attention_figure_has_a_row_for_each_iteration(with_reconstruction):
    labels = quarters(96)
    attention = torch.stack([torch.full((4, 96, 96), 0.25), soft(labels)])
    image = torch.zeros(3, 96, 96)
    more = {"reconstruction": torch.ones(3, 96, 96)} if with_reconstruction else {}
    figure = attention_figure(image, attention, **more)
    step = 96 + figures.GAP
    top = figures.MARGIN + figures.TEXT_SIZE + 2 * figures.GAP
    assert figure.height == top + 2 * step - figures.GAP + figures.MARGIN
    first = figure.width - figures.MARGIN + figures.GAP - 4 * step
    for slot, (color, (x, y)) in enumerate(
        zip((BLUE, ORANGE, GREEN, RED), ((10, 10), (80, 10), (10, 80), (80, 80)), strict=True)
    ):
        weak = figure.getpixel((first + slot * step + x, top + y))
        strong = figure.getpixel((first + slot * step + x, top + step + y))
        assert strong == color
        assert weak == pytest.approx([0.25 * part + 0.75 * 0.06 * 255 for part in color], abs=1)
        assert figure.getpixel((first + slot * step + x, top - figures.GAP + 1)) == color
    middle = top + (2 * step - figures.GAP) // 2
    beside = figure.getpixel((figures.MARGIN + step + 48, middle))
    assert (beside == (255, 255, 255)) == with_reconstruction


def test_frames_hold_glide_and_end_on_the_last_iteration():
    attention = torch.stack([torch.full((4, 16, 16), 0.25), soft(quarters(16)), soft(3 - quarters(16))])
    frames = attention_frames(torch.zeros(3, 16, 16), attention, hold=3, between=4, scale=2)
    assert len(frames) == 3 * 3 + 2 * 4 + 3
    assert len({frame.size for frame in frames}) == 1
    bits = [frame.tobytes() for frame in frames]
    assert bits[0] == bits[2] and bits[7] == bits[9] and bits[14] == bits[-1]
    assert len(set(bits)) == 3 + 2 * 4
    segmentation = animation.MARGIN + 2 * 32 + animation.GAP
    assert frames[7].getpixel((segmentation + 1, animation.MARGIN + 1))[2] > 150  # upper left: slot 1, blue
    assert frames[-1].getpixel((segmentation + 1, animation.MARGIN + 1))[0] > 130  # upper left: slot 4, red


def test_a_slot_glows_more_and_more_on_the_way():
    attention = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    frames = attention_frames(torch.zeros(3, 8, 8), attention, hold=1, between=5, scale=4)
    x = animation.MARGIN + 2 * (2 * 32 + animation.GAP) + animation.GAP + 16
    glow = [frame.getpixel((x, animation.MARGIN + 16))[2] for frame in frames[:-1]]
    assert glow == sorted(glow) and len(set(glow)) == 7 and glow[-1] == BLUE[2]


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".PNG"])
def test_animations_are_written_in_every_format(tmp_path, suffix):
    colors = [BLUE, ORANGE, GREEN]
    frames = [Image.new("RGB", (20, 10), color) for color in colors]
    path = save_animation(frames, tmp_path / f"moving{suffix}", milliseconds=120)
    with Image.open(path) as read:
        assert (read.n_frames, read.size) == (3, (20, 10))
        for number, color in enumerate(colors):
            read.seek(number)
            assert read.convert("RGB").getpixel((10, 5)) == pytest.approx(color, abs=4)
            assert read.info["duration"] == 120
        assert read.info["loop"] == 0


@pytest.mark.parametrize("name", ["moving.mp4", "moving", "moving.jpg"])
def test_other_formats_are_refused_by_name(tmp_path, name):
    with pytest.raises(ValueError, match=f"'{name}'.*gif"):
        save_animation([Image.new("RGB", (2, 2))], tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, np.int32])
def test_indexed_png_reads_back_as_labels_and_opens_in_colors(tmp_path, kind):
    values = np.arange(256).reshape(8, 32)
    labels = torch.tensor(values, dtype=kind) if isinstance(kind, torch.dtype) else values.astype(kind)
    indexed_png(labels, tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as read:
        assert read.mode == "P"
        assert (np.asarray(read) == values).all()
        assert (np.asarray(read.convert("RGB")).reshape(-1, 3) == slot_colors(256)).all()


@pytest.mark.parametrize("wrong", [-1, 256])
def test_labels_that_are_no_byte_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=str(wrong)):
        indexed_png(torch.tensor([[0, wrong]]), tmp_path / "labels.png")


@pytest.mark.parametrize("module", [figures, animation])
def test_examples_run(module):
    assert doctest.testmod(module).failed == 0
