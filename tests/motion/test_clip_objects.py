"""The model `video`: masks by motion and appearance that persist, and clear results at the edges."""

import numpy as np
import pytest
import torch
from PIL import Image
from published_sets import textured
from scipy import ndimage
from videos import write_video

import objecthood as oh
from objecthood import metrics
from objecthood.cli.main import main
from objecthood.data.io.video_file import VideoFile
from objecthood.inference import clip_frames
from objecthood.inference.clip_frames import object_masks
from objecthood.motion.clip_objects import clip_masks, clip_of, motion_score, read_frame
from objecthood.motion.components import ObjectSlots
from objecthood.motion.fields import fields_of
from objecthood.nn.objectness import class_moments, log_odds, ridge
from objecthood.recipes.moving_objects import fit_head

pytest.importorskip("cv2", reason="needs OpenCV, the extra `video`")
HEIGHT, WIDTH, SIDE = 120, 160, 40


def clip_of_a_square(frames: int = 12, stops_at: int = 6) -> tuple[np.ndarray, torch.Tensor]:
    """A textured square over a textured background; the camera always moves, the square until `stops_at`."""
    wide = textured(HEIGHT, WIDTH + 4 * frames, 1) // 2
    square = 128 + textured(SIDE, SIDE, 2) // 2
    pictures, truth = [], torch.zeros(frames, HEIGHT, WIDTH, dtype=torch.bool)
    for now in range(frames):
        left = 40 + 2 * min(now, stops_at) - max(0, now - stops_at)  # the background moves by -1
        picture = wide[:, now : now + WIDTH].copy()
        picture[40 : 40 + SIDE, left : left + SIDE] = square
        pictures.append(picture)
        truth[now, 40 : 40 + SIDE, left : left + SIDE] = True
    return np.stack(pictures), truth


def test_flow_does_not_depend_on_the_number_of_threads():
    """Nor on who computes at the same time: OpenCV's object holds the images of the last pair."""
    frames, _ = clip_of_a_square(24)
    threads, found = torch.get_num_threads(), []
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            found.append(fields_of(list(frames)).flow)
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_results_do_not_depend_on_the_number_of_threads(model, tmp_path):
    clip = write_video(tmp_path / "clip.mp4", clip_of_a_square(10)[0])
    threads, masks, files = torch.get_num_threads(), [], []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            result = oh.predict_video(model, clip, tmp_path / f"out{number}")
            pictures = sorted(result.files["masks"].iterdir())
            files.append([picture.name for picture in pictures])
            masks.append(np.stack([np.asarray(Image.open(picture)) for picture in pictures]))
    finally:
        torch.set_num_threads(threads)
    assert files[0] == files[1] == [f"{number:06d}.png" for number in range(10)]
    assert (masks[0] == masks[1]).mean() > 0.999 and masks[0].any(), "sums are rounded in another order"


@pytest.fixture(scope="module")
def model():
    """The model `video` with a small input, and a head that was learned from another clip's motion."""
    found = oh.load("video")
    found.side = 160
    frames, _ = clip_of_a_square(8, 8)
    found.head = fit_head([clip_of([read_frame(found, frame) for frame in frames[:, :, ::-1]])])
    return found


def test_an_object_that_stops_is_still_found(model):
    frames, truth = clip_of_a_square()
    masks, _ = clip_masks(model, clip_of([read_frame(model, frame) for frame in frames]))
    large = torch.nn.functional.interpolate(masks[:, None], (HEIGHT, WIDTH), mode="bilinear")[:, 0]
    overlap = metrics.region_similarity(truth, large > 0.5)
    assert overlap[:6].mean() > 0.6 and overlap[7:].mean() > 0.6


def test_half_of_the_log_odds_are_those_of_the_general_head(model):
    frames, _ = clip_of_a_square(6, 6)
    clip = clip_of([read_frame(model, frame) for frame in frames])
    motion = motion_score(clip.fields.speed)
    coarse = torch.nn.functional.interpolate(motion[:, None], clip.features.shape[1:3], mode="area")[:, 0]
    start, odds, general = model.head.weight.clone(), [], []
    for scale in (1.0, 2.0):  # the head's weights alone, not those that the adaptation starts from
        model.head.weight.copy_(scale * start)
        odds.append(model.adapt(clip.features, coarse, start)[0])
        general.append(model.adaptation.slope * model.head(clip.features))
    model.head.weight.copy_(start)
    assert (general[1] - general[0]).abs().max() > 0.5
    torch.testing.assert_close(odds[1] - odds[0], (general[1] - general[0]) / 2, atol=1e-4, rtol=1e-4)


def test_windows_keep_the_slots(model):
    frames, _ = clip_of_a_square(12, 12)
    whole = torch.stack(list(object_masks(model, frames)))
    parts = torch.stack(list(object_masks(model, frames, length=4, margin=2)))
    assert whole.shape == parts.shape and len(parts) == 12
    assert torch.allclose(parts.sum(dim=1), torch.ones_like(parts[:, 0]))
    main_slot = [labels[labels > 0].mode().values.item() for labels in parts.argmax(dim=1)]
    assert len(set(main_slot)) == 1
    assert metrics.region_similarity(whole[:, 0] < 0.5, parts[:, 0] < 0.5).mean() > 0.7


def test_slots_persist_over_windows(model, monkeypatch):
    """The larger object of a frame would be slot 1 without what earlier windows know."""

    def drawn(_, clip, start):
        masks = torch.zeros(len(clip.images), *clip.images.shape[2:])
        for mask, image in zip(masks, clip.images, strict=True):
            early = image.mean() < 0.25  # brightness tells the frame
            mask[8:20, 4 : 24 if early else 12] = mask[30:44, 50 : 58 if early else 74] = 1.0
        return masks, model.head.weight

    monkeypatch.setattr(clip_frames, "clip_masks", drawn)
    frames = np.stack([np.full((HEIGHT, WIDTH, 3), 10 * number, np.uint8) for number in range(12)])
    masks = list(object_masks(model, frames, length=4, margin=1))
    assert {(mask[1, 10, 6].item(), mask[2, 36, 54].item()) for mask in masks} == {(1.0, 1.0)}


@pytest.mark.parametrize(
    ("count", "height", "width"), [(1, 60, 80), (2, 60, 80), (3, 5, 7), (3, 40, 200), (2, 1, 1)]
)
def test_short_small_and_constant_clips_have_a_result(model, count, height, width):
    frames = np.full((count, height, width, 3), 90, np.uint8)
    masks = list(object_masks(model, frames))
    assert len(masks) == count and all(mask.isfinite().all() for mask in masks)


def test_a_still_clip_is_divided_by_appearance(model):
    frames, _ = clip_of_a_square(1)
    still = list(object_masks(model, np.repeat(frames, 4, axis=0)))
    alone = list(object_masks(model, frames))
    assert motion_score(torch.zeros(2, 2, 4, 6)) is None
    assert metrics.region_similarity(still[0][:1] < 0.5, alone[0][:1] < 0.5).item() > 0.5


def test_ridge_and_odds_agree_with_their_definitions():
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 5, generator=generator)
    labels = (torch.rand(200, generator=generator) < 0.2).float()
    weight = labels / labels.sum() + (1 - labels) / (1 - labels).sum()
    start = torch.randn(5, generator=generator)
    found = ridge(class_moments(inputs, labels), 0.3, start).requires_grad_()
    error = (weight * (inputs @ found - (2 * labels - 1)).square()).sum() + 0.3 * (
        found - start
    ).square().sum()
    (slope,) = torch.autograd.grad(error, found)
    torch.testing.assert_close(slope, torch.zeros(5), atol=1e-4, rtol=0)
    odds = log_odds(inputs.T, labels, 0.0)
    inside, outside = (inputs[labels == kind].double() for kind in (1, 0))
    scatter = (inside.T.cov(correction=0) * len(inside) + outside.T.cov(correction=0) * len(outside)) / 200
    normal = [torch.distributions.MultivariateNormal(part.mean(dim=0), scatter) for part in (inside, outside)]
    expected = normal[0].log_prob(inputs.double()) - normal[1].log_prob(inputs.double())
    torch.testing.assert_close(odds.double(), expected + labels.mean().double().logit(), atol=1e-3, rtol=1e-3)


def test_slots_follow_components_and_wait_for_them():
    slots, near, far = ObjectSlots(2), torch.zeros(40, 40), torch.zeros(40, 40)
    near[2:12, 2:12] = far[25:35, 25:35] = 1.0
    assert slots.update(near)[1, 5, 5] == 1
    assert slots.update(near + far)[2, 30, 30] == 1
    assert slots.update(far)[1].sum() == 0
    both = slots.update(near.roll(2, 1) + far.roll(2, 0))
    assert both[1, 5, 8] == 1 and both[2, 32, 30] == 1


def test_predict_takes_it_for_videos(tmp_path, capsys):
    frames, _ = clip_of_a_square(4)
    write_video(tmp_path / "clip.mp4", frames)
    assert main(["predict", str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "out")]) == 0
    assert "frames are independent" not in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "clip-masks" / "000003.png") as masks:
        assert masks.size == (WIDTH, HEIGHT)
        background = ndimage.binary_erosion(np.asarray(masks) == 0, iterations=4)
    *_, overlay = VideoFile(tmp_path / "out" / "clip-overlay.mp4")
    assert background.any() and np.abs(overlay.astype(int) - frames[3])[background].mean() < 15, "no tint"
    assert (tmp_path / "out" / "clip-tracks.txt").is_file()
    with pytest.raises(ValueError, match="oh.predict_video"):
        oh.predict("video", frames[0])
    with pytest.raises(ValueError, match="1 frame"):
        fit_head([clip_of([read_frame(oh.load("video"), frames[0])])])


def test_progress_counts_motion_and_masks_as_half(model, tmp_path):
    told = []
    clip = write_video(tmp_path / "clip.mp4", clip_of_a_square(6)[0])
    oh.predict_video(model, clip, tmp_path / "out", report=lambda *counts: told.append(counts))
    assert told[5] == (3, 6), "all are read, nothing is written"
    assert told == sorted(told) and told[-1] == (6, 6) and told[-2] == (5, 6)
