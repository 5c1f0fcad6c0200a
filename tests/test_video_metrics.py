"""Scores of clips: what they are of known partitions, and what they must not depend on."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score
from torch.nn.functional import one_hot

from objecthood import metrics
from objecthood.data.generated.moving_sprites import MovingSprites
from objecthood.motion import tracking as motion
from objecthood.nn.block_matching import slot_motion

CLIPS = MovingSprites("test", frames=6)[range(6)]
TRUTH = CLIPS["masks"]


def soft(labels: torch.Tensor, slots: int = 7) -> torch.Tensor:
    return one_hot(labels, slots).permute(0, 1, 4, 2, 3).float()


@pytest.mark.parametrize("ignore", [True, False])
def test_video_ari_is_that_of_all_pixels_together(ignore):
    predicted = torch.randint(0, 5, TRUTH.shape)
    predicted[:, :, ::2] = TRUTH[:, :, ::2]
    found = metrics.video_adjusted_rand_index(TRUTH, predicted, ignore_background=ignore)
    for value, truth, labels in zip(found, TRUTH, predicted, strict=True):
        counted = truth > 0 if ignore else truth >= 0
        assert value.item() == pytest.approx(adjusted_rand_score(truth[counted], labels[counted]), abs=1e-9)
    again = metrics.video_adjusted_rand_index(TRUTH, soft(predicted), ignore_background=ignore)
    assert torch.equal(found, again)


def test_a_change_of_slots_costs_the_video_score_and_not_the_frame_score():
    changed = TRUTH.clone()
    changed[:, 3:] = (TRUTH[:, 3:] + 1) % 6
    for score, wanted in ((metrics.video_adjusted_rand_index, 0.6), (metrics.frame_adjusted_rand_index, 1.1)):
        assert (score(TRUTH, TRUTH, ignore_background=True) == 1).all()
        values = score(TRUTH, changed, ignore_background=True)
        assert (values < wanted).all()
    assert (metrics.frame_adjusted_rand_index(TRUTH, changed, ignore_background=True) == 1).all()


def test_frame_scores_do_not_bound_the_video_score():
    truth = torch.tensor([[[[1, 1, 2, 2]], [[1, 1, 2, 2]]]])
    labels = torch.tensor([[[[0, 1, 0, 1]], [[0, 1, 0, 1]]]])
    frames, video = (
        score(truth, labels, ignore_background=True).item()
        for score in (metrics.frame_adjusted_rand_index, metrics.video_adjusted_rand_index)
    )
    assert frames == pytest.approx(-0.5) and video == pytest.approx(-1 / 6)


def test_without_objects_there_is_no_foreground_score():
    """SAVi's code says 1 here; ours says nan, and means leave it out."""
    empty, labels = torch.zeros(1, 2, 1, 4, dtype=torch.int64), torch.tensor([[[[0, 1, 0, 1]]] * 2])
    for score in (metrics.frame_adjusted_rand_index, metrics.video_adjusted_rand_index):
        assert score(empty, labels, ignore_background=True).isnan().all()
        assert score(empty, labels, ignore_background=False).item() == 0
        assert score(empty, 0 * labels, ignore_background=False).item() == 1


def test_frame_score_leaves_frames_without_objects_out():
    truth = torch.tensor([[[[0, 0, 0]], [[1, 1, 2]]]])
    labels = torch.tensor([[[[0, 1, 2]], [[4, 4, 3]]]])
    assert metrics.frame_adjusted_rand_index(truth, labels, ignore_background=True).item() == 1


def test_id_switches_are_counted_when_they_happen():
    switches, chances = metrics.id_switches(TRUTH, TRUTH)
    assert (switches == 0).all() and (chances > 0).all()
    # One object, three slots: found by 1, 1, nothing, 2, 2, 1 -> two switches among four chances.
    truth = torch.ones(1, 6, 2, 2, dtype=torch.int64)
    labels = torch.tensor([1, 1, 0, 2, 2, 1])[None, :, None, None].expand(1, 6, 2, 2).clone()
    labels[0, 2] = torch.tensor([[3, 4], [5, 6]])
    assert [value.item() for value in metrics.id_switches(truth, labels)] == [2, 4]
    # Half of the area is enough, less is not.
    labels[0, 2] = torch.tensor([[1, 1], [5, 6]])
    assert [value.item() for value in metrics.id_switches(truth, labels)] == [2, 5]
    nothing = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    assert [value.item() for value in metrics.id_switches(nothing, nothing)] == [0, 0]


def test_region_similarity():
    truth = torch.zeros(4, 4, 4, dtype=torch.bool)
    truth[:3, :2] = True
    predicted = truth.clone()
    predicted[1] = ~truth[1]
    predicted[2, 0] = False
    assert metrics.region_similarity(truth, predicted).tolist() == [1, 0, 0.5, 1]


def test_region_similarity_of_a_sequence_with_and_without_its_ends():
    truth = torch.ones(4, 1, 4, dtype=torch.bool)
    predicted = truth.clone()
    for frame, wrong in enumerate((4, 1, 2, 3)):  # J: 0, 0.75, 0.5, 0.25
        predicted[frame, 0, :wrong] = False
    assert metrics.sequence_region_similarity(truth, predicted, skip_ends=False) == 0.375
    assert metrics.sequence_region_similarity(truth, predicted, skip_ends=True) == 0.625
    with pytest.raises(ValueError, match="masks of 2 frames have no J; give at least 3 frames"):
        metrics.sequence_region_similarity(truth[:2], predicted[:2], skip_ends=True)


def test_region_similarity_counts_any_number_above_0_as_foreground(unchecked):
    truth = torch.zeros(2, 4, 4, dtype=torch.bool)
    truth[:, :2] = True
    predicted = truth.roll(1, 1)
    wanted = metrics.region_similarity(truth, predicted)
    for kind, value in ((torch.uint8, 255), (torch.uint8, 1), (torch.int64, 3), (torch.int16, -1)):
        found = metrics.region_similarity(truth, predicted.to(kind) * value)
        assert torch.equal(found, wanted if value > 0 else torch.zeros(2, dtype=torch.float64))
        assert torch.equal(metrics.region_similarity(truth.byte(), predicted.byte() * 2), wanted)
    with pytest.raises(ValueError, match=r"bool or whole numbers; got torch.bool and torch.float32.*> 0.5"):
        metrics.region_similarity(truth, predicted.float())


def test_region_similarity_refuses_other_sizes(unchecked):
    with pytest.raises(ValueError, match=r"\[1, 4, 4\].*\[1, 2, 2\].*one shape"):
        metrics.region_similarity(torch.ones(1, 4, 4).bool(), torch.ones(1, 2, 2).bool())


@pytest.mark.parametrize(
    "score",
    [
        lambda *masks: metrics.video_adjusted_rand_index(*masks, ignore_background=True),
        lambda *masks: metrics.frame_adjusted_rand_index(*masks, ignore_background=True),
        metrics.video_mean_best_overlap,
        metrics.id_switches,
    ],
)
def test_what_is_no_clip_is_refused(unchecked, score):
    masks = soft(TRUTH)
    for true, predicted, problem in (
        (TRUTH, masks * torch.nan, "soft masks contain nan"),
        (TRUTH, masks.numpy(), "masks must be tensors; got Tensor and ndarray"),
        (TRUTH[:, 0], masks[:, 0], r"must be labels \[batch, time, height, width\]"),
        (TRUTH, masks[:, 1:], r"\[6, 6, 64, 64\] must be labels .* masks \[6, 5, 7, 64, 64\]"),
    ):
        with pytest.raises(ValueError, match=problem):
            score(true, predicted)
    with pytest.raises(ValueError, match="masks must be tensors; got ndarray and Tensor"):
        metrics.region_similarity(TRUTH[0].numpy(), TRUTH[0])


def test_verdicts_with_true_masks_are_nearly_all_right():
    clips = MovingSprites("test", frames=8)[range(30)]
    masks = soft(clips["masks"], 6)
    right, judged = motion.verdicts_right(motion.track(clips["image"], masks), masks, clips)
    assert judged.sum() > 500 and right.sum() / judged.sum() > 0.87  # 0.91 measured
    # A verdict that is always "moving" is not.
    always = motion.track(clips["image"], masks)._replace(moving=torch.ones(30, 8, 6, dtype=torch.bool))
    assert motion.verdicts_right(always, masks, clips)[0].sum() / judged.sum() < 0.75


def test_the_camera_is_found_and_taken_off():
    clips = MovingSprites("test", frames=8, background="textured", camera=3.0)[range(20)]
    held = soft(clips["masks"], 6)[:, 0]
    frame, following = clips["image"][:, 0], clips["image"][:, 1]
    camera = slot_motion(frame, following, motion.ground_within(held))[:, 0]
    assert (camera - clips["camera"][:, 0]).norm(dim=-1).median() < 0.15
    tracks = motion.track(clips["image"], soft(clips["masks"], 6))
    seen = (clips["visibility"] > 0.9)[:, -1]
    wrong = (tracks.velocity[:, -1, 1:] - clips["velocity"][:, -1]).norm(dim=-1)[seen]
    assert wrong.median() < 0.35


def test_tracks_say_where_slots_are():
    masks = torch.zeros(1, 2, 3, 16, 16)
    masks[:, :, 0] = 0.5
    masks[:, 0, 1, 2:6, 4:8] = 1
    masks[:, 1, 1, 3:7, 4:8] = 1
    tracks = motion.track(torch.rand(1, 2, 3, 16, 16), masks)
    assert tracks.centre[0, :, 1].tolist() == [[5.5, 3.5], [5.5, 4.5]]
    assert tracks.centre[0, 0, 2].tolist() == [-1, -1] and not tracks.moving[0, :, 2].any()
    assert tracks.area[0, 0].tolist() == [240, 16, 0]


def test_a_stream_of_frames_gives_the_tracks_of_the_clip():
    masks = soft(TRUTH)
    whole, tracker = motion.track(CLIPS["image"], masks), motion.Tracker()
    every = CLIPS["image"].unbind(1)
    for now, frame in enumerate(every):
        tracks = tracker.update(frame, masks[:, now], every[now + 1] if now < 5 else None)
        assert all(torch.equal(part, all_of[:, now]) for part, all_of in zip(tracks, whole, strict=True))
    assert np.isfinite(whole.velocity.numpy()).all()
