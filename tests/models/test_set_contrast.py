"""The contrastive model and its recipes: independent frames, losses on sets."""

from dataclasses import replace

import pytest
import torch

from objecthood import losses
from objecthood.analysis import probes
from objecthood.data.generated.moving_sprites import MovingSprites
from objecthood.evaluate import evaluate
from objecthood.models import set_contrast
from objecthood.recipes import RECIPES
from objecthood.recipes.video import MIN_INPUTS, non_empty_slots
from objecthood.train import train

CLIPS = MovingSprites("test", frames=4)[range(2)]
SPRITES, CAMOUFLAGE = RECIPES["moving-sprites-contrast"], RECIPES["camouflage-contrast"]
SMALL = dict(num_slots=4, test_frames=3, test_iterations=2, test_scenes=4, validation_scenes=2, batch_size=4)


@torch.no_grad()
def test_frames_are_grouped_independently():
    model = set_contrast.moving_sprites().eval()
    scene, backwards = model(CLIPS["image"]), model(CLIPS["image"].flip(1))
    for part, other in zip(scene, backwards, strict=True):
        torch.testing.assert_close(part, other.flip(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scene.masks.sum(dim=2), torch.ones(2, 4, 64, 64))
    assert scene.masks.shape == (2, 4, 6, 64, 64) and scene.attention.shape == (2, 4, 6, 32, 32)


@torch.no_grad()
def test_slots_may_be_propagated():
    model = set_contrast.moving_sprites(later_iterations=1).eval()
    alone, handed = (model(CLIPS["image"], propagate_slots=on) for on in (False, True))
    torch.testing.assert_close(alone.slots[:, 0], handed.slots[:, 0], rtol=1e-4, atol=1e-5)
    first, second = (model.features(CLIPS["image"][:, time]).flatten(1, 2) for time in (0, 1))
    found = model.grouping.cluster(first)
    again = model.grouping.cluster(second, None, 1, found.means, found.attention)
    torch.testing.assert_close(again.slots, handed.slots[:, 1], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(alone.slots[:, 1], handed.slots[:, 1])


@torch.no_grad()
def test_features_have_no_positions():
    model = set_contrast.moving_sprites()
    frames = torch.full((1, 3, 64, 64), 0.3)
    frames[:, 0, 20:28, 20:28] = 0.9
    features, moved = model.features(frames), model.features(frames.roll((8, 12), dims=(2, 3)))
    torch.testing.assert_close(features.roll((4, 6), dims=(1, 2))[:, 8:24, 8:24], moved[:, 8:24, 8:24])


@pytest.mark.parametrize("recipe", [SPRITES, CAMOUFLAGE], ids=["frames", "motion"])
@pytest.mark.parametrize("contrast", ["nearest", "set", "single"])
def test_every_kind_of_step_has_a_gradient(recipe, contrast):
    recipe = replace(recipe, contrast=contrast, **SMALL)
    model, clips = recipe.build_model(), recipe.dataset("train")[range(4)]
    loss = recipe.loss(model, clips, 0)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.encoder.convolutions[0].weight.grad.abs().sum() > 0
    scores = evaluate(model, recipe)
    assert 0 <= scores["id_switch_rate"] <= 1 and recipe.main_score in scores


def test_a_few_steps_separate_clips(tmp_path):
    recipe = replace(SPRITES, **SMALL | {"batch_size": 16}, steps=15, warmup_steps=2, evaluate_every=15)
    result = train(recipe, tmp_path / "run", checkpoint_every=1000)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert '"loss"' in lines[0] and result["scores"]["attention_fg_ari"] <= 1
    assert (tmp_path / "run" / "figures" / "clips-animated.gif").exists()


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"contrast": "triple"}, "`contrast`"),
        ({"temperature": 0.0}, "`temperature`"),
        ({"lag": 0}, "`lag`"),
        ({"batch_size": 1}, "`batch_size`"),
    ],
)
def test_impossible_settings_are_refused(changes, what):
    with pytest.raises(ValueError, match=what):
        replace(SPRITES, **changes)


def test_slot_contrast_is_added_to_the_video_loss():
    plain = replace(RECIPES["moving-sprites"], single_frame_steps=1, batch_size=4, frames=2)
    model, clips = plain.build_model(), plain.dataset("train")[range(4)]
    with torch.no_grad():
        both = replace(plain, slot_contrast=0.5)
        assert torch.equal(plain.loss(model, clips, 0), both.loss(model, clips, 0)), "of single frames: none"
        added = both.loss(model, clips, 1) - plain.loss(model, clips, 1)
        scene = model(clips["image"][:2])
    wanted = 0.5 * losses.slot_slot_contrast(scene.slots, holds=non_empty_slots(scene.attention))
    torch.testing.assert_close(added, wanted, rtol=1e-3, atol=1e-3)


def test_slots_are_non_empty_from_a_number_of_inputs():
    attention = torch.zeros(1, 2, 3, 8, 8)
    attention[0, 0, 0].view(-1)[:MIN_INPUTS] = 0.6
    attention[0, 0, 1].view(-1)[: MIN_INPUTS - 1] = 0.9
    attention[0, 1, 2] = 0.5
    assert non_empty_slots(attention).tolist() == [[[True, False, False], [False, False, False]]]


def test_probes_predict_properties():
    """Slots made of the properties themselves, in another order each: all is read, of noise nothing."""
    clips = MovingSprites("test", frames=2)[range(60)]
    masks = torch.nn.functional.one_hot(clips["masks"], 6).permute(0, 1, 4, 2, 3).float()
    order = torch.tensor([3, 5, 1, 0, 2, 4])
    blank = torch.zeros(60, 2, 6, 8)
    objects = probes.matched_objects(clips, blank, masks[:, :, order])
    kinds = torch.nn.functional.one_hot(objects.kind, 3)
    told = objects._replace(slots=torch.cat([objects.position, objects.colour, kinds], dim=1))
    scores = probes.property_scores(told, told)
    assert scores["position_r2"] > 0.95 and scores["colour_r2"] > 0.95 and scores["kind_accuracy"] == 1
    noise = objects._replace(slots=torch.randn(len(objects.kind), 8, dtype=torch.float64))
    half = len(noise.kind) // 2
    parts = (type(noise)(*(part[where] for part in noise)) for where in (slice(half), slice(half, None)))
    scores = probes.property_scores(*parts)
    assert scores["position_r2"] < 0.1 and scores["colour_r2"] < 0.1 and scores["kind_accuracy"] < 0.6


def test_probes_match_slots_with_objects_by_overlap():
    clips = MovingSprites("test", frames=2)[range(4)]
    masks = torch.nn.functional.one_hot(clips["masks"], 6).permute(0, 1, 4, 2, 3).float()
    order = torch.tensor([3, 5, 1, 0, 2, 4])
    number = order.view(1, 1, 6, 1).expand(4, 2, 6, 1).float()  # each slot knows which object it holds
    held = probes.matched_objects(clips, number, masks[:, :, order])
    wanted = [
        label + 1
        for seen in clips["visibility"].flatten(0, 1)
        for label in range(5)
        if seen[label] >= probes.LEAST_SEEN
    ]
    assert held.slots[:, 0].tolist() == wanted
    assert (held.position > 0).all() and (held.position < 1).all() and (held.colour <= 1).all()


def test_decoder_probe_gives_no_gradient_to_slots():
    slots = torch.rand(2, 3, 67, requires_grad=True)
    picture, masks = probes.DecoderProbe(67, 16)(slots)
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(2, 16, 16))
    picture.sum().backward()
    assert slots.grad is None


def test_the_control_differs_in_its_loss_only():
    """Encoder and grouping are those of the contrast model; only decoding its frames teaches them."""
    recipe = replace(SPRITES, contrast="reconstruction", brightness_jitter=0.0, batch_size=2)
    shapes = []
    for one in (SPRITES, recipe):
        parts = one.build_model().state_dict()
        shapes.append({k: v.shape for k, v in parts.items() if k.startswith(("encoder", "grouping"))})
    assert shapes[0] == shapes[1]
    model = recipe.build_model()
    assert not any(name.startswith(("transition", "embed")) for name, _ in model.named_parameters())
    scenes = MovingSprites("train", frames=recipe.train_frames)[range(2)]
    loss = recipe.loss(model, scenes, 0)
    seen = scenes["image"][:, [0, recipe.lag]]
    decoded = model.reconstruct(model.group(seen))
    torch.testing.assert_close(loss, ((2 * decoded - 1) - (2 * seen - 1)).square().mean())
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
