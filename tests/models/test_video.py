"""The video model: one frame equals the image model, streams equal clips, slots persist."""

import pytest
import torch
from torch import nn

from objecthood.data.generated.camouflage import Camouflage
from objecthood.data.generated.moving_sprites import MovingSprites
from objecthood.models import autoencoder, video
from objecthood.nn import ConditionedSlots, ResidualPredictor, TransformerPredictor
from objecthood.nn.block_matching import block_flow, matching_errors, motion_image, slot_motion

CLIPS = MovingSprites("test", frames=5)[range(2)]["image"]


@pytest.mark.parametrize("predictor", [TransformerPredictor(64), ResidualPredictor(64), nn.Identity()])
def test_one_frame_equals_the_image_model(predictor):
    image_model = autoencoder.fast_sprites(split_slots=True)
    model = video.SlotVideo(image_model.encoder, image_model.grouping, image_model.decoder, predictor)
    one = CLIPS[:, 0]
    scene, whole = image_model(one, iterations=4), model(one[:, None], iterations=4)
    assert torch.equal(scene.slots, whole.slots[:, 0])
    assert torch.equal(scene.attention[:, -1], whole.attention[:, 0])
    for name in ("reconstruction", "appearance", "masks"):
        torch.testing.assert_close(getattr(scene, name), getattr(whole, name)[:, 0], rtol=0, atol=1e-6)
    names = video.moving_sprites().state_dict().keys()
    assert {name for name in names if not name.startswith("predictor")} == image_model.state_dict().keys()


@pytest.mark.parametrize("modality", ["frame", "motion"])
@torch.no_grad()
def test_a_stream_equals_a_clip(modality):
    model = video.moving_sprites(modality=modality)
    nn.init.normal_(model.predictor.project_out.weight, std=0.1)
    clip, state = model(CLIPS), None
    every = CLIPS.unbind(1)
    for time, frame in enumerate(every):
        following = every[time + 1] if modality == "motion" and time < 4 else None
        scene, state = model.step(frame, state, following)
        for name, part in scene._asdict().items():
            torch.testing.assert_close(part, getattr(clip, name)[:, time], rtol=1e-4, atol=1e-5)
    assert state.slots.shape == (2, 6, 64), "all that is carried, after however many frames"


@torch.no_grad()
def test_later_frames_start_from_predicted_slots_with_fewer_iterations(monkeypatch):
    model, calls = video.moving_sprites(later_iterations=1), []
    group = model.grouping.slot_attention

    def spy(inputs, slots, iterations=None, mask=None, previous=None):
        calls.append((slots, iterations))
        return type(group).forward(group, inputs, slots, iterations, mask, previous)

    monkeypatch.setattr(group, "forward", spy)
    scene = model(CLIPS, iterations=5)
    assert [rounds for _, rounds in calls] == [5, 1, 1, 1, 1]
    for time in range(1, 5):
        assert torch.equal(calls[time][0], model.predictor(scene.slots[:, time - 1]))


def test_gradient_reaches_the_first_frame_through_time():
    model = video.moving_sprites()
    scene = model(CLIPS)
    scene.reconstruction[:, -1].square().mean().backward()
    queries = model.grouping.initial_slots.queries.grad
    assert queries.abs().sum() > 0
    assert model.predictor.project_out.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("start, size", [("boxes", 4), ("centres", 2)])
def test_conditioned_slots(start, size, unchecked):
    model = video.moving_sprites(conditioning=start)
    conditions = torch.rand(2, 6, size)
    scene = model(CLIPS, conditions)
    order = [2, 0, 1, 5, 4, 3]
    torch.testing.assert_close(
        model(CLIPS, conditions[:, order]).masks, scene.masks[:, :, order], rtol=1e-3, atol=1e-4
    )
    with pytest.raises(ValueError, match="needs `conditions`; got None"):
        model(CLIPS)
    with pytest.raises(ValueError, match=rf"`conditions` .shape \[2, 3, {size}\]"):
        model(CLIPS, conditions[:, :3])
    with pytest.raises(ValueError, match="takes no `conditions`"):
        video.moving_sprites()(CLIPS, conditions)


def hints_of_one_object(num_slots: int) -> torch.Tensor:
    """Boxes for two clips: the background, one object, and absent ones."""
    conditions = torch.full((2, num_slots, 4), -1.0)
    conditions[:, 0] = 0
    conditions[:, 1] = torch.tensor([0.1, 0.1, 0.4, 0.5])
    return conditions


@torch.no_grad()
def test_slots_of_absent_objects_have_equal_masks():
    """The measurement behind `ConditionedSlots`: attention alone does not separate equal slots."""
    model = video.moving_sprites(conditioning="boxes", spatial_bias=0, merge_penalty=0)
    nn.init.normal_(model.predictor.project_out.weight, std=0.1)
    scene = model(CLIPS, hints_of_one_object(6))
    for masks in (scene.masks, scene.attention):
        absent = masks[:, :, 2:]
        torch.testing.assert_close(absent, absent[:, :, :1].expand_as(absent), rtol=1e-3, atol=1e-5)
        assert (masks[:, :, 0] - masks[:, :, 2]).abs().max() > 0.01, "the background is not one of them"
    # Four in place of one have four times the odds in the first softmax.
    few = video.moving_sprites(num_slots=3, conditioning="boxes", spatial_bias=0, merge_penalty=0)
    few.load_state_dict(model.state_dict() | {"grouping.initial_slots.queries": torch.zeros(1, 3, 64)})
    odds = []
    for one, num_slots in ((model, 6), (few, 3)):
        attention = one(CLIPS, hints_of_one_object(num_slots), iterations=1).attention[:, 0]
        odds.append(attention[:, 2:].sum(dim=1) / attention[:, 0])
    torch.testing.assert_close(odds[0], 4 * odds[1], rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_a_spatial_bias_can_separate_equal_slots():
    """Six equal slots: the first counts as the heaviest, and so as the background."""
    masks = video.moving_sprites(conditioning="boxes")(CLIPS, torch.full((2, 6, 4), -1.0)).masks
    assert (masks - masks[:, :, :1]).abs().amax() > 0.1


@torch.no_grad()
def test_decoding_the_next_frame_uses_the_predicted_slots():
    model = video.moving_sprites(decodes_next=True)
    before = model(CLIPS).reconstruction
    nn.init.normal_(model.predictor.project_out.weight)
    nn.init.ones_(model.predictor.project_out.bias)
    assert not torch.allclose(before[:, 0], model(CLIPS).reconstruction[:, 0])
    with pytest.raises(ValueError, match="without attention-conditioned masks"):
        video.SlotVideo(
            model.encoder,
            model.grouping,
            autoencoder.fast_sprites().decoder,
            nn.Identity(),
            decodes_next=True,
        )


def test_an_untrained_predictor_is_the_identity():
    slots = torch.randn(3, 5, 64)
    for predictor in (TransformerPredictor(64), ResidualPredictor(64)):
        assert torch.equal(predictor(slots), slots)
    predictor = TransformerPredictor(64)
    nn.init.normal_(predictor.project_out.weight)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(predictor(slots[:, order]), predictor(slots)[:, order], rtol=1e-4, atol=1e-4)
    changed = slots.clone()
    changed[:, 0] += 1
    assert not torch.allclose(predictor(changed)[:, 1], predictor(slots)[:, 1]), "slots see each other"


def test_conditioned_slots_share_one_function():
    start = ConditionedSlots(2, 8, 4)
    same = start(torch.full((1, 2, 4), 0.3))
    assert torch.equal(same[:, 0], same[:, 1])


def test_block_flow_finds_camouflaged_motion():
    clips = Camouflage("test", frames=2)[range(12)]
    frame, other, masks = clips["image"][:, 0], clips["image"][:, 1], clips["masks"][:, 0]
    wrong = (block_flow(frame, other) - clips["flow"][:, 0]).norm(dim=1)
    # Up to the borders of objects; what is covered in the other frame has no match there.
    assert (wrong[masks > 0] > 0.25).float().mean() < 0.045 and (wrong > 0.25).float().mean() < 0.02
    assert (block_flow(frame, frame) == 0).all()


def test_matching_errors_are_those_of_the_displacement():
    frame, other = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    errors = matching_errors(frame, other, 2)
    wanted = (other[1, :, 5, 2] - frame[1, :, 4, 4]).square().mean()
    torch.testing.assert_close(errors[1, 2 + 1, 2 - 2, 4, 4], wanted)


def test_slot_motion_of_textureless_objects_is_that_of_their_outline():
    clips = MovingSprites("test", frames=2)[range(40)]
    masks = nn.functional.one_hot(clips["masks"][:, 0], 6).permute(0, 3, 1, 2).float()
    found = slot_motion(clips["image"][:, 0], clips["image"][:, 1], masks)[:, 1:]
    whole = clips["visibility"].amin(1) > 0.95
    wrong = (found - clips["velocity"][:, 0]).norm(dim=-1)[whole]
    assert wrong.median() < 0.4 and wrong.quantile(0.9) < 1
    assert (slot_motion(clips["image"][:, 0], clips["image"][:, 1], torch.zeros(40, 1, 64, 64)) == 0).all()


def test_motion_as_an_image():
    flow = torch.randn(2, 2, 4, 4) * 3
    picture = motion_image(flow)
    assert picture.min() >= 0 and picture.max() <= 1
    torch.testing.assert_close(picture[:, :2] * 6 - 3, flow.clamp(-3, 3))


@pytest.mark.parametrize(
    "make",
    [
        lambda: video.moving_sprites(later_iterations=0),
        lambda: video.moving_sprites(resolution=30),
        lambda: TransformerPredictor(64, heads=5),
        lambda: video.moving_sprites()(torch.rand(1, 2, 3, 32, 32)),
    ],
)
def test_impossible_models_are_refused(make, unchecked):
    with pytest.raises(ValueError) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_held_slot_keeps_the_background():
    """Two slots with the same contents: the one that had the background in the frame before keeps it."""
    model = video.moving_sprites(num_slots=3)
    group = model.grouping.slot_attention
    inputs, slots = torch.randn(1, 1024, 64), torch.randn(1, 3, 64)
    slots[:, 1] = slots[:, 0]
    for keeper in (0, 1):
        before = torch.full((1, 3, 1024), 0.01)
        before[:, keeper] = 0.98
        held = group(inputs, slots, 1, previous=before).attention[0, 0].sum(dim=-1)
        assert held[keeper] > held[1 - keeper] + 100
    without = group(inputs, slots, 1).attention[0, 0].sum(dim=-1)
    torch.testing.assert_close(without[0], without[1])
