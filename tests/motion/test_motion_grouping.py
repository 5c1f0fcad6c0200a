"""Motion grouping: flow that is right, cameras taken off, masks that follow, and a recipe that trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from published_sets import textured, write_davis
from torch.nn import functional

import objecthood as oh
from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.images import resize_image
from objecthood.inference import predict_video
from objecthood.motion import masks as motion_masks
from objecthood.motion.fields import MotionFields, SequenceFields, sequence_fields, shown, without_camera
from objecthood.motion.paths import along_paths, consistency
from objecthood.recipes import RECIPES

pytest.importorskip("cv2", reason="needs OpenCV, the extra `video`")
from objecthood.motion.optical_flow import DenseInverseSearch


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    return write_davis(tmp_path_factory.mktemp("davis"))


def test_flow_is_where_pixels_are_found():
    wide = textured(160, 200)
    frame, other = wide[20:140, 20:180], wide[17:137, 15:175]  # what was at x is now at x + 5, y + 3
    flow = DenseInverseSearch()(frame, other)
    assert flow.shape == (120, 160, 2)
    np.testing.assert_allclose(np.median(flow[20:-20, 20:-20], axis=(0, 1)), (5, 3), atol=0.1)


def test_fields_of_both_directions_are_in_time_and_free_of_the_camera(davis):
    flow, residual, steady, speed = sequence_fields(str(davis), "ant")
    assert flow.shape == residual.shape == steady.shape == (4, 2, 2, 120, 214)
    inside, outside = (..., slice(48, 72), slice(88, 100)), (..., slice(5, 25), slice(20, 180))
    for direction in (0, 1):
        ground = flow[1, direction][outside].float().flatten(1).median(dim=1).values
        thing = flow[1, direction][inside].float().flatten(1).median(dim=1).values
        torch.testing.assert_close(ground, torch.tensor([-1.0, -0.5]), atol=0.1, rtol=0)
        torch.testing.assert_close(thing, torch.tensor([3.0, 0.0]), atol=0.1, rtol=0)
        left = residual[1, direction][outside].float().abs().flatten(1).median(dim=1).values
        assert left.max() < 0.1
        along = steady[1, direction][inside].float().flatten(1).median(dim=1).values
        torch.testing.assert_close(along, torch.tensor([4.0, 0.5]), atol=0.2, rtol=0)
        assert speed[1, direction][inside[1:]].float().median() > 3.8


def test_motion_and_its_speed_are_averaged_along_paths(davis):
    fields = sequence_fields(str(davis), "ant")
    flow, residual = fields.flow.float(), fields.residual.float()
    speed = along_paths(residual.norm(dim=2), flow)
    steady = along_paths(residual.flatten(1, 2), flow).unflatten(1, residual.shape[1:3])
    torch.testing.assert_close(fields.speed.float(), speed, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(fields.steady.float(), steady, rtol=1e-2, atol=1e-2)
    for averaged, plain in ((fields.speed, residual.norm(dim=2)), (fields.steady, residual)):
        assert (averaged.float() - plain).abs().max() > 0.1


def test_noise_cancels_along_paths_and_motion_stays():
    generator = torch.Generator().manual_seed(0)
    flow = torch.zeros(12, 2, 2, 16, 40)
    flow[:, :, 0] = 1.0
    thing = torch.zeros(12, 1, 16, 40)
    for now in range(12):
        thing[now, :, 4:12, 10 + now : 18 + now] = 1.0
    noise = torch.randn(thing.shape, generator=generator)
    averaged = along_paths(thing + noise, flow)
    assert (averaged - thing)[..., 12:].abs().mean() < noise.abs().mean() / 2
    torch.testing.assert_close(along_paths(thing, flow)[6], thing[6], atol=1e-4, rtol=0)


def test_flow_that_does_not_come_back_is_not_followed():
    flow = torch.zeros(3, 2, 2, 8, 8)
    flow[0, 0, 0] = 4.0  # to the next frame, whose flow from the last says nothing moved
    sure = consistency(flow)
    assert sure[0, 0].max() < 0.01 and sure[1, 0].min() == 1 and sure[2].min() == 1
    values = torch.zeros(3, 1, 8, 8)
    values[1:] = 1.0
    assert along_paths(values, flow)[0].max() < 0.05


def test_the_camera_is_fitted_despite_a_large_object():
    y, x = np.mgrid[0:40, 0:60].astype(float)
    field = np.stack([2 + 0.03 * x - 0.02 * y, -1 + 0.02 * x])
    field[:, 5:30, 10:40] += np.array([3.0, -2.0])[:, None, None]
    left = without_camera(field)
    assert np.abs(left[:, 32:]).max() < 0.05 and np.abs(left[0, 6:29, 12:38] - 3).max() < 0.05


def test_fields_as_a_data_set(davis):
    train, held_out = (MotionFields(davis, split, fold=1, resolution=32) for split in ("train", "test"))
    assert (train.sequences, held_out.sequences) == (["ant", "cat"], ["bee"])
    assert len(train) == 8 and len(held_out) == 4
    scenes = held_out[[2, 0]]
    assert scenes["image"].shape == (2, 2, 3, 32, 32) and scenes["masks"].shape == (2, 2, 32, 32)
    assert scenes["image"].min() >= 0 and scenes["image"].max() <= 1
    fast = scenes["image"][:, :, 2] > 0.5
    assert (fast & (scenes["masks"] > 0)).sum() / fast.sum() > 0.7, "what is fast is the object"
    with pytest.raises(ValueError, match="`fold` .=3. must be 0 to 2"):
        MotionFields(davis, "test", fold=3)


def test_scale_of_shown_fields():
    field = torch.zeros(1, 2, 8, 8)
    still = shown(field, field[:, 0], 8)
    assert (still[:, :2] == 0.5).all() and (still[:, 2] == 0).all()
    field[:, 0, :4] = -2.0
    assert shown(field, field.norm(dim=1), 8)[0, :, 0, 0].tolist() == [0, 0.5, 1]


def test_the_background_is_what_has_the_border():
    masks = torch.rand(5, 3, 8, 8).softmax(1)
    masks[:, 1, 0] += 5
    torch.testing.assert_close(motion_masks.moving_mask(masks), 1 - masks[:, 1])


def test_the_main_slot_is_large_and_away_from_the_border():
    masks = torch.zeros(1, 4, 16, 16)
    masks[0, 1, :, :3], masks[0, 2, 5:11, 5:11], masks[0, 3, 12:14, 12:14] = 1.0, 1.0, 1.0
    masks[0, 0] = 1 - masks[0, 1:].sum(dim=0)
    assert motion_masks.ground_slot(masks).tolist() == [0]
    assert motion_masks.main_slot(masks).tolist() == [2]


def test_masks_on_the_grid_of_what_slots_paint():
    """Masks of 8 x 8 in doubt, pixels of 32 x 32 that fit what the one or the other slot paints."""
    motion = torch.full((1, 3, 32, 32), 0.5)
    motion[:, 0, :, 13:] = 1.0
    appearance = torch.full((1, 2, 3, 8, 8), 0.5)
    appearance[:, 1, 0] = 1.0
    masks = torch.full((1, 2, 8, 8), 0.5)
    wide = motion_masks.sharpened(masks, appearance, motion)
    torch.testing.assert_close(wide.sum(dim=1), torch.ones(1, 32, 32))
    assert ((wide[0, 1] > 0.5) == (motion[0, 0] > 0.75)).all()


def test_far_from_the_main_thing_nothing_is():
    masks = torch.zeros(9, 40, 60)
    masks[:, 15:25, 20:30] = 1.0
    masks[4] = 0.0
    masks[4, :, 50:] = 1.0  # one frame is wrong: the median over frames does not follow
    place = motion_masks.located(masks)
    assert place[:, 15:25, 20:30].min() > 0.9 and place[:, :, 50:].max() < 0.01


def test_what_is_coloured_as_what_moves_moves():
    pictures = torch.full((6, 3, 30, 40), 0.2)
    pictures[:, 0, 10:20, 10:20] = 0.9
    truth = pictures[:, 0] > 0.5
    masks = truth.float()
    masks[:, 20:26, 10:20] = 1.0  # of the ground's colour, as is most that does not move
    masks[2] = 0.4  # a frame in doubt
    coloured = motion_masks.coloured(masks, pictures, weight=1.0) > 0.5
    assert (coloured[2] == truth[2]).float().mean() > 0.95
    assert (coloured != truth).float().mean() < (masks.gt(0.5) != truth).float().mean()
    same = motion_masks.coloured(masks, pictures, weight=0.0)
    torch.testing.assert_close(same, masks.clamp(0.02, 0.98))


def test_agreement_takes_what_both_directions_say():
    masks = torch.tensor([[[[0.9, 0.9, 0.01]], [[0.9, 0.01, 0.01]]]])
    assert (motion_masks.agreed(masks)[0, 0] > 0.5).tolist() == [True, False, False]


def test_masks_are_carried_along_with_the_flow():
    """One frame in which nothing was found gets what its neighbours show, where it has moved to."""
    masks = torch.zeros(5, 12, 30)
    for now in range(5):
        masks[now, 4:8, 4 + 3 * now : 8 + 3 * now] = 1.0
    truth, masks[2] = masks.clone(), 0.0
    flow = torch.zeros(5, 2, 2, 12, 30)
    flow[:, :, 0] = 3.0
    carried = motion_masks.carried_along(masks, flow)
    assert ((carried > 0.5) == (truth > 0.5)).all()
    still = motion_masks.carried_along(masks, torch.zeros_like(flow))
    assert ((still > 0.5) != (truth > 0.5)).any()
    same = motion_masks.carried_along(truth, flow, weight=0.0)
    torch.testing.assert_close(same, truth)


def test_masks_are_drawn_to_edges_of_the_image():
    pictures = torch.zeros(1, 3, 40, 40)
    pictures[:, :, 10:30, 10:30] = torch.tensor([0.9, 0.3, 0.1])[:, None, None]
    truth = pictures[:, 0] > 0.5
    fat = torch.zeros(1, 40, 40)
    fat[:, 7:32, 8:33] = 1.0
    drawn = motion_masks.drawn_to_edges(fat, pictures)
    wrong = [(mask != truth).sum().item() for mask in (fat > 0.5, drawn > 0.5)]
    assert wrong[1] < wrong[0] / 2
    plain = motion_masks.drawn_to_edges(fat, torch.full((1, 3, 40, 40), 0.5))
    assert ((plain > 0.5) == (fat > 0.5)).float().mean() > 0.94, "without edges little changes"


def test_the_recipe_trains_and_scores(davis):
    recipe = replace(RECIPES["motion-grouping"], data_path=str(davis), resolution=32, warmup_steps=2)
    model, scenes = recipe.build_model(), recipe.dataset("train")[range(4)]
    optimizers, losses = recipe.build_optimizers(model), []
    for step in range(30):
        loss = recipe.loss(model, scenes, step)
        loss.backward()
        losses.append(loss.item())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert losses[-1] < 0.75 * losses[0]
    scores = recipe.scores(model.eval(), recipe.dataset("test")[range(4)], torch.arange(4))
    assert scores["j"].shape == (4,) and scores["j"].max() <= 1
    fields = SequenceFields(*(part.float() for part in sequence_fields(str(davis), "bee")))
    with torch.no_grad():
        moving, main = recipe.moving(model, fields)
    assert moving.shape == main.shape == (4, 2, 120, 214) and (main <= moving + 1e-5).all()
    with pytest.raises(ValueError, match="needs `data_path`"):
        RECIPES["motion-grouping"].dataset("train")


def test_the_whole_run_ends_with_weights(davis, tmp_path):
    few = {"steps": 2, "warmup_steps": 1, "evaluate_every": 2, "validation_scenes": 2, "test_scenes": 2}
    oh.train(replace(RECIPES["motion-grouping"], data_path=str(davis), **few), tmp_path / "run")
    assert oh.load(tmp_path / "run").num_slots == 3


def test_a_video_is_predicted_with_the_masks_that_are_measured(davis, tmp_path):
    """Motion grouping through `predict_video`: two slots a frame, the masks of `MotionGrouping.objects`."""
    pytest.importorskip("av", reason="needs PyAV, the extra `video`")
    recipe = replace(RECIPES["motion-grouping"], data_path=str(davis), resolution=32)
    torch.manual_seed(0)
    model = recipe.build_model().eval()
    model.recipe = recipe
    folder = davis / "JPEGImages" / "480p" / "ant"
    result = predict_video.predict_video(model, folder, tmp_path / "found")
    assert result.frames == 4
    fields = SequenceFields(*(part.float() for part in sequence_fields(str(davis), "ant")))
    frames = [resize_image(frame, (120, 214)) for frame in FrameFolder(folder)]
    pictures = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float().div(255)
    with torch.no_grad():
        measured = recipe.objects(model, fields, pictures)
    wide = functional.interpolate(measured[:, None], (240, 428), mode="bilinear", align_corners=False)[:, 0]
    for number, mask in enumerate(wide):
        labels = np.asarray(Image.open(result.files["masks"] / f"{number:06d}.png"))
        assert ((labels == 1) == (mask > 0.5).numpy()).mean() > 0.999
    assert predict_video.are_videos([str(folder)], model)
    with pytest.raises(ValueError, match="of a video model"):
        predict_video.are_videos([str(folder / "00000.jpg")], model)
    with pytest.raises(ValueError, match="accept no `iterations`"):
        predict_video.predict_video(model, folder, tmp_path / "other", num_slots=4)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 11, 12, 30])
def test_windows_show_every_item_once_with_what_is_around(count):
    shown = []
    for part, inner in predict_video.windows(range(count), 4, 2):
        assert part[inner][0] == len(shown), "stretches follow each other"
        assert part[0] == max(0, len(shown) - 2)
        shown += part[inner]
        assert part[-1] >= min(count - 1, shown[-1] + 2) and len(part) <= 12
    assert shown == list(range(count))


def test_the_order_of_slots_does_not_count_for_consistency(davis):
    recipe = replace(RECIPES["motion-grouping"], data_path=str(davis), resolution=32)
    scenes = recipe.dataset("train")[range(2)]
    masks = torch.rand(4, 3, 32, 32).softmax(1)

    def loss_of(masks):
        scene = type("Scene", (), {"masks": masks, "reconstruction": scenes["image"].flatten(0, 1)})
        unchecked = type(recipe).loss.__wrapped__
        return unchecked(recipe, lambda fields: scene, scenes, 0)

    masks[1::2] = masks[::2]
    swapped = masks.clone()
    swapped[1::2] = masks[1::2].flip(1)  # no turn of the slots gives this order
    torch.testing.assert_close(loss_of(masks), loss_of(swapped))
    other = masks.clone()
    other[1::2] = 0.5
    assert loss_of(other) > loss_of(masks)
