"""The contract of models: a stranger's model runs everywhere, and images of any size come back in place."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import objecthood as oh
from objecthood.analysis import out_of_distribution
from objecthood.analysis.diagnosis import diagnose
from objecthood.cli.main import main
from objecthood.data.io.images import resize_image
from objecthood.export.export import export_onnx
from objecthood.inference.estimator import ObjectFinder
from objecthood.inference.predict_video import Tracks, look, predict_video
from objecthood.models import SlotModel, SlotOutput, autoencoder, set_contrast, set_predictor, video
from objecthood.models.placement import FITS, Placement, place

PALETTE = torch.tensor([[0.5, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


class Colours(SlotModel):
    """A stranger's model without weights: each slot is a colour, slot 0 grey."""

    image_size = feature_grid = (32, 32)
    num_slots, slot_dim, iterations = 4, 3, 1

    def segment(self, images, num_slots=None, iterations=None, restarts=None, noise=None):
        distance = (images[:, None] - PALETTE[None, :, :, None, None]).square().sum(dim=2)
        masks = (-50 * distance).softmax(dim=1)
        return SlotOutput(PALETTE.expand(len(images), -1, -1), masks[:, None], masks)


SQUARES = {1: (10, 4), 2: (10, 50), 3: (10, 96)}
"""Slot to top and left of a square of 20 pixels in an image of 40 x 120."""


def wide(height: int = 40, width: int = 120) -> np.ndarray:
    image = np.full((height, width, 3), 128, np.uint8)
    for slot, (top, left) in SQUARES.items():
        image[top : top + 20, left : left + 20] = (255 * PALETTE[slot]).numpy()
    return image


def box(labels: np.ndarray, slot: int) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a slot."""
    rows, columns = np.nonzero(labels == slot)
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def truth(slot: int) -> tuple[int, int, int, int]:
    top, left = SQUARES[slot]
    return top, left, top + 20, left + 20


@pytest.mark.parametrize("fit", ["pad", "squash", None])
def test_masks_of_a_wide_image_are_in_their_place(fit):
    (result,) = oh.predict(Colours(), wide(), fit=fit)
    assert result.labels.shape == (40, 120) and result.labels.min() == 0
    for slot in SQUARES:
        assert np.abs(np.subtract(box(result.labels, slot), truth(slot))).max() <= 2
    restored = result.placement.restore(result.masks)
    assert restored.shape == (4, 40, 120)
    torch.testing.assert_close(restored.sum(dim=0), torch.ones(40, 120))


def test_padding_keeps_the_aspect_ratio_and_squashing_does_not():
    shown = {fit: oh.predict(Colours(), wide(), fit=fit)[0] for fit in ("pad", "squash")}
    for fit, ratio in (("pad", 1.0), ("squash", 3.0)):
        top, left, bottom, right = box(shown[fit].masks.argmax(dim=0).numpy(), 2)
        assert (bottom - top) / (right - left) == pytest.approx(ratio, rel=0.25)
    assert torch.equal(oh.predict(Colours(), wide())[0].masks, shown["pad"].masks), "the default"


def test_outside_of_the_crop_no_slot_is_seen(tmp_path):
    (result,) = oh.predict(Colours(), wide(), tmp_path / "out", fit="crop", also=["cutouts", "arrays"])
    labels = result.labels
    assert (labels[:, :40] == -1).all() and (labels[:, 80:] == -1).all() and labels[:, 40:80].min() == 0
    assert np.abs(np.subtract(box(labels, 2), truth(2))).max() <= 2
    assert result.placement.restore(result.masks)[:, :, :40].sum() == 0
    seen = np.unique(labels[labels >= 0]).tolist()
    assert {2} <= set(seen) and [one["slot"] for one in result.to_coco()["annotations"]] == seen
    with Image.open(result.files["masks"]) as masks:
        assert np.array_equal(np.asarray(masks), np.where(labels < 0, 255, labels))
    assert len(list(result.files["cutouts"].iterdir())) == len(seen)
    outside = np.asarray(result.cutout(2))[:, :40, 3]
    assert (outside == 0).all() and np.array_equal(np.asarray(result.plot("overlay"))[:, :40], wide()[:, :40])


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("side", [20, 32, 128])
def test_square_images_are_resized_as_ever(fit, side):
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    pixels, placement = place(image, (32, 32), fit)
    assert np.array_equal(pixels, resize_image(image, (32, 32)))
    assert placement == Placement((side, side), (0, 0, side, side))


@pytest.mark.parametrize("size", [(1, 500), (500, 1), (40, 120), (33, 32), (101, 100), (7, 9)])
@pytest.mark.parametrize("input_size", [(32, 32), (16, 48)])
@pytest.mark.parametrize("fit", FITS)
def test_any_image_fits_any_model(size, input_size, fit):
    """A ramp across the image comes back as itself wherever the model sees it."""
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    ramp = ramp[None] if size[1] >= size[0] else ramp[:, None]
    image = np.repeat(np.broadcast_to(ramp, size)[..., None], 3, axis=2)
    pixels, placement = place(image, input_size, fit)
    assert pixels.shape == (*input_size, 3)
    back = placement.restore(torch.from_numpy(pixels).permute(2, 0, 1).float(), outside=-1.0)
    assert back.shape == (3, *size)
    if fit != "crop":
        assert back.min() >= 0 and (back[0] - torch.from_numpy(image[..., 0]).float()).abs().mean() < 8
    rows, columns = placement.shown(input_size)
    if fit != "squash" and min(placement.box[2:]) > 1 and min(rows, columns) > 3:
        assert rows / columns == pytest.approx(placement.box[2] / placement.box[3], rel=0.1)


def test_places_are_those_of_the_image():
    _, padded = place(wide(), (32, 32), "pad")
    assert padded.locate(0.5, 0.5, (32, 32)) == pytest.approx((0.5, 0.5), abs=0.05)
    assert padded.locate(0.25, 0.0, (32, 32)) == (0.25, 0.0), "the padding lies at the border"
    _, cropped = place(wide(), (32, 32), "crop")
    assert cropped.locate(0.0, 1.0, (32, 32)) == pytest.approx((1 / 3, 1.0))


def test_objects_of_a_set_predictor_are_placed_in_the_image():
    torch.manual_seed(0)
    model = set_predictor.fast_clevr(resolution=32)
    torch.nn.init.constant_(model.head[-1].bias, 9.0)
    (result,) = oh.predict(model, wide(), fit="crop")
    assert result.objects and all(40 <= thing["pixel"][0] <= 80 for thing in result.objects)


def test_another_fit_is_refused(tmp_path, unchecked):
    with pytest.raises(ValueError, match=r"`fit` \(='zoom'\) must be one of pad, crop, squash"):
        oh.predict(Colours(), wide(), fit="zoom")
    Image.fromarray(wide()).save(tmp_path / "wide.png")
    words = ["predict", str(tmp_path / "wide.png"), "--weights", "sprites", "--no-animation"]
    assert main([*words, "--out", str(tmp_path / "out"), "--fit", "zoom"]) == 2


def test_the_command_fits_as_asked(tmp_path):
    Image.fromarray(wide()).save(tmp_path / "wide.png")
    words = ["predict", str(tmp_path / "wide.png"), "--weights", "sprites", "--no-animation"]
    assert main([*words, "--out", str(tmp_path / "out"), "--fit", "crop"]) == 0
    with Image.open(tmp_path / "out" / "wide-masks.png") as masks:
        assert (np.asarray(masks)[:, :40] == 255).all() and np.asarray(masks)[:, 40:80].max() < 6


@pytest.mark.parametrize("data, fit", [("clevr", "squash"), ("folder", "pad"), ("sprites", "pad")])
def test_weights_are_used_with_the_fit_they_were_trained_with(data, fit):
    recipe = dataclasses.replace(oh.RECIPES["folder"], data=data, resolution=16)
    assert recipe.prepare_for_test(recipe.build_model()).fit == fit


# A stranger's model, everywhere.


def test_it_is_diagnosed():
    recipe = dataclasses.replace(oh.RECIPES["sprites"], resolution=32)
    found = diagnose(Colours(), recipe, num_scenes=3)
    assert {"attention_entropy", "objects", "used_slots"} <= found.summary.keys()
    assert "error_ratio" not in found.summary, "it decodes nothing"
    assert found.figure(rows=2).width > 100


def test_it_predicts_as_an_estimator():
    finder = ObjectFinder(num_slots=4)
    finder.model_ = Colours()
    assert np.abs(np.subtract(box(finder.predict(wide()[None])[0], 1), truth(1))).max() <= 2
    assert finder.transform(wide()[None]).shape == (1, 4, 3)
    masks = np.zeros((1, 40, 120), np.int64)
    for slot in SQUARES:
        top, left, bottom, right = truth(slot)
        masks[0, top:bottom, left:right] = slot
    assert finder.score(wide()[None], masks) > 0.7
    finder.model_.fit = "crop"
    cut = masks.copy()
    cut[..., :40] = cut[..., 80:] = -1
    assert finder.score(wide()[None], masks) == finder.score(wide()[None], cut), "cut off: not scored"
    with pytest.raises(
        ValueError, match="the model has no output reconstruction; it has slots, attention, masks"
    ):
        finder.score(wide()[None])


def test_it_warns_of_strange_images():
    recipe = dataclasses.replace(oh.RECIPES["sprites"], resolution=32, validation_scenes=20)
    model = Colours()
    model.calibration = out_of_distribution.calibration(model, recipe)
    assert set(model.calibration["quantiles"]) == {"doubt of attention"} and model.calibration["scenes"] == 20
    model.calibration["quantiles"]["doubt of attention"]["0.95"] = 1e-3
    assert "likely out of distribution" in oh.predict(model, wide() // 2)[0].warning

    class Own(Colours):
        def anomaly_score(self, images, output):
            return {"darkness": 1 - images.mean(dim=(1, 2, 3))}

    own = Own()
    own.calibration = {"scenes": 20, "quantiles": {"darkness": {"0.95": 0.1}}}
    assert "darkness is 10 times" in oh.predict(own, np.zeros((8, 8, 3), np.uint8))[0].warning
    assert oh.predict(own, np.full((8, 8, 3), 255, np.uint8))[0].warning == ""


def test_its_figures_and_files_need_no_decoder(tmp_path):
    (result,) = oh.predict(Colours(), wide(), tmp_path / "out")
    assert set(result.files) == {"overlay", "masks", "coco"}
    assert result.plot().width > 32 and "of 4 slots active" in result._repr_html_()
    with pytest.raises(ValueError, match=r"`merge_background` \(=True\)"):
        oh.predict(Colours(), wide(), merge_background=True)
    with pytest.raises(ValueError, match=r"`restarts` \(=2\) must be 1 for these weights"):
        oh.predict(Colours(), wide(), restarts=2)


@pytest.mark.parametrize("fit", FITS)
def test_it_follows_a_video_frame_by_frame(fit):
    """Tracks lie where the squares do, in pixels of the video."""
    frames = [wide(), wide()]
    for picture, masks, placement, tracks in look(Colours(), frames, fit=fit):
        assert picture.shape == (40, 120, 3) and masks.shape == (4, 32, 32) and isinstance(tracks, Tracks)
        rows, columns = placement.shown((32, 32))
        across, down = placement.box[3] / columns, placement.box[2] / rows
        x, y = (tracks.centre[2] + 0.5).tolist()
        assert (x * across, y * down) == pytest.approx((60, 20), abs=2)
        assert tracks.area.sum() == rows * columns


def test_it_is_refused_by_export_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="a Colours cannot be exported: it has no stages") as refused:
        export_onnx(Colours().eval(), tmp_path / "colours.onnx")
    assert "\n" not in str(refused.value) and not list(tmp_path.iterdir())


# Our own models speak to the contract.


@pytest.mark.parametrize(
    "build",
    [
        lambda: autoencoder.fast_sprites(3, resolution=16),
        lambda: set_predictor.fast_clevr(3, resolution=16),
        lambda: video.moving_sprites(3, resolution=16),
        lambda: set_contrast.moving_sprites(3, resolution=16),
    ],
    ids=["autoencoder", "set predictor", "video", "set contrast"],
)
def test_every_model_says_what_it_is(build):
    model = build().eval()
    assert model.image_size == (16, 16) and model.resolution == 16
    with torch.no_grad():
        output = model.segment(torch.rand(2, 3, 16, 16), 3, 2, noise=torch.randn(1, 2, 3, 64))
    assert output.slots.shape == (2, 3, model.slot_dim)
    assert output.attention.shape[-2:] == model.feature_grid
    if model.result_kind == "masks":
        assert output.masks.shape == (2, 3, 16, 16)
        torch.testing.assert_close(output.masks.sum(dim=1), torch.ones(2, 16, 16))
    else:
        assert output.masks is None and output.properties.shape == (2, 3, 19)
    (result,) = oh.predict(model, np.zeros((20, 40, 3), np.uint8))
    assert result.size == (20, 40) and not result.error


def test_several_restarts_are_drawn_where_no_noise_is_given():
    model = autoencoder.fast_slot_frames(3, resolution=16, noise_scale=0.5).eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        torch.manual_seed(0)
        noise = torch.stack([torch.randn(2, 3, 64) for _ in range(3)])
        best = model.segment(images, noise=noise)
        torch.manual_seed(0)
        drawn = model.segment(images, restarts=3)
        (first,) = torch.randn(1, 2, 3, 64, generator=torch.Generator().manual_seed(0))
        one = model.segment(images, noise=first[None])
    assert torch.equal(drawn.masks, best.masks) and not torch.equal(drawn.masks, one.masks)
    assert model.restarts_differ
    assert not autoencoder.fast_sprites(3, resolution=16).restarts_differ


def test_models_of_motion_ask_for_a_video():
    model = oh.RECIPES["motion-grouping"].build_model()
    with pytest.raises(ValueError, match="these weights need motion"):
        oh.predict(model, np.zeros((64, 64, 3), np.uint8))


def test_a_set_predictor_cannot_look_at_videos(tmp_path):
    with pytest.raises(ValueError, match="a SetPredictor cannot predict videos"):
        predict_video(set_predictor.fast_clevr(), tmp_path / "x.mp4", tmp_path / "out")
