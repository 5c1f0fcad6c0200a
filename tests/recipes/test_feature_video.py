"""Slots over features of video, from training to prediction; the recipes of VideoSAUR and SlotContrast."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_vits import publish, use_cache
from undrawn import leave_out_images

import objecthood as oh
from objecthood import losses
from objecthood.analysis.floors import floors
from objecthood.data.clip_folder import ClipFolder
from objecthood.data.io.images import ImageError
from objecthood.inference.result_folder import VIDEO_FORMAT, VIDEO_RECORD
from objecthood.models.feature_video import FeatureVideo
from objecthood.recipes import RECIPES

SMALL = dict(
    resolution=32,
    num_slots=3,
    slot_dim=12,
    decoder_dim=16,
    steps=2,
    batch_size=2,
    warmup_steps=1,
    evaluate_every=100,
    frames=3,
    test_frames=3,
    validation_scenes=2,
    test_scenes=3,
    precision="float32",
)
GENERATED = SMALL | dict(data="moving-sprites", background="textured", clips=4)


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("OBJECTHOOD_CACHE", str(tmp_path / "features"))
    return use_cache(tmp_path / "hub", monkeypatch)


def small(name="clips-slots", **changes):
    return dataclasses.replace(RECIPES[name], **GENERATED | changes)


def frames_of(folder, count, size=(40, 32)):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", size, (8 * number, 90, 200)).save(folder / f"{number}.png")


def test_from_a_folder_of_videos_to_prediction(tmp_path, monkeypatch):
    pytest.importorskip("av")
    leave_out_images(monkeypatch)
    frames_of(tmp_path / "videos" / "walk", 7)
    frames_of(tmp_path / "videos" / "more" / "run", 6)
    recipe = dataclasses.replace(
        RECIPES["clips-slots"], **SMALL, data_path=str(tmp_path / "videos"), similarity=0.1, slot_contrast=0.5
    )
    result = oh.train(recipe, tmp_path / "run", device="cpu")
    assert set(result["scores"]) == {"feature_mse", "motion_mse"}, "no true masks, no scores of masks"
    model = oh.load(tmp_path / "run")
    assert isinstance(model, FeatureVideo) and model.tracks
    found = oh.predict_video(tmp_path / "run", tmp_path / "videos" / "walk", tmp_path / "found")
    assert found.frames == 7 and json.loads(found.files["json"].read_text())["frames"] == 7
    again = oh.load(oh.save(model, model.recipe, tmp_path / "again.safetensors"))
    one, other = (kind.segment(torch.ones(1, 3, 32, 32)).masks for kind in (model, again))
    assert torch.equal(one, other)


def test_frames_are_cached_one_by_one(tmp_path):
    recipe, shorter = small(), small(frames=2)
    cached = recipe.dataset("train")[range(4)]
    cache = next((tmp_path / "features").rglob("features.bin"))
    size = cache.stat().st_size
    shorter.dataset("train")
    assert cache.stat().st_size == size, "shorter clips have no new frames"
    model = recipe.build_model()
    known = model.features_of(cached["image"], at_once=5)
    torch.testing.assert_close(cached["features"], known, atol=2e-3, rtol=2e-3)
    assert cached["features"].shape == (4, 3, 2, 2, 304)


@pytest.mark.parametrize("motion", [0.0, 1.0])
def test_a_clip_equals_its_stream(motion):
    recipe = small(motion=motion)
    model = recipe.build_model().eval()
    torch.nn.init.normal_(model.predictor.project_out.weight)  # it starts as the identity
    scenes = recipe.dataset("train")[range(2)]
    frames, moved = scenes["image"], scenes.get("motion")
    assert (moved is None) == (not motion) and (moved is None or moved.any())
    whole, state = model.clip(model.features_of(frames), motion=moved), None
    if motion:
        still = model.clip(model.features_of(frames), motion=torch.zeros_like(moved))
        assert not torch.allclose(still.slots, whole.slots, atol=1e-3), "slots see the motion"
    for number, frame in enumerate(frames.unbind(1)):
        following = frames[:, number + 1] if number < 2 else None
        output, state = model.step(frame, state, following)
        torch.testing.assert_close(output.slots, whole.slots[:, number], atol=1e-5, rtol=1e-4)
        masks = model.at_size(whole.masks[:, number : number + 1], frames[:, :1])[:, 0]
        torch.testing.assert_close(output.masks, masks, atol=1e-5, rtol=1e-4)


def test_what_all_frames_share_is_not_grouped_but_decoded():
    """Another constant map in all features changes no slot, and what is decoded by itself."""
    model = small(motion=0.0).build_model().eval()
    features, shared = torch.randn(4, 3, 2, 2, 304), torch.randn(2, 2, 304)
    model.track_mean(features[:2], 0)
    model.track_mean(features[2:], 1)
    torch.testing.assert_close(model.feature_mean, features.mean(dim=(0, 1)))
    model.track_mean(features * torch.inf, 2)  # of a step that is skipped
    torch.testing.assert_close(model.feature_mean, features.mean(dim=(0, 1)))
    before = model.clip(features)
    model.track_mean(features + shared, 0)
    after = model.clip(features + shared)
    torch.testing.assert_close(after.slots, before.slots, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.features, before.features + shared, atol=1e-4, rtol=1e-4)
    assert small("videosaur-vitb16").centred_features is False, "the papers have none"


def test_clips_slots_start_without_a_penalty_of_duplicates():
    """With one, 300 steps on textured clips left all pixels in one slot."""
    recipe = small()
    model, scenes = recipe.build_model(), recipe.dataset("train")[range(2)]
    bias = model.grouping.slot_attention.attention_bias
    for step, ramp in ((0, 0.0), (150, 0.5), (250, 1.0)):
        recipe.loss(model, scenes, step)
        assert bias.weight == 1 and bias.ramp.item() == ramp


def test_losses_are_those_of_the_recipe():
    scenes = small().dataset("train")[range(2)]
    values = {}
    for name, weights in {
        "plain": {},
        "contrast": {"slot_contrast": 0.5},
        "similarity": {"similarity": 0.1},
        "motion": {"motion": 1.0},
        "more motion": {"motion": 3.0},
    }.items():
        recipe = small(**{"motion": 0.0} | weights)
        torch.manual_seed(0)
        model = recipe.build_model()
        decoded = model.decoder.to_feature.out_features
        assert decoded == 304 + 4 * (recipe.similarity > 0) + 2 * (recipe.motion > 0)
        values[name] = recipe.loss(model, scenes, 0).item()
    assert values["contrast"] > values["plain"] and values["similarity"] != values["plain"]
    assert values["more motion"] > values["motion"]


def test_temporal_similarity_is_where_patches_move():
    """Patches that move by one place, against the definition written out."""
    features = torch.eye(4)[None].repeat(2, 1, 1)
    features[1] = features[1].roll(1, 0)
    wanted = losses.temporal_similarity(features[None], 0.25)[0, 0]
    assert wanted.argmax(1).tolist() == [1, 2, 3, 0]
    torch.testing.assert_close(wanted[0], (torch.tensor([0, 1, 0, 0]) / 0.25).softmax(0))
    apart = -torch.ones(1, 2, 3, 1)
    apart[:, 0] = 1  # every cosine is -1: spread evenly
    torch.testing.assert_close(losses.temporal_similarity(apart), torch.full((1, 1, 3, 3), 1 / 3))
    logits = torch.randn(2, 1, 4, 4)
    cost = losses.similarity_loss(logits, wanted.expand(2, 1, 4, 4))
    theirs = F.cross_entropy(logits.flatten(0, 2).view(8, 4), wanted.repeat(2, 1))
    torch.testing.assert_close(cost.mean(), theirs)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith(("videosaur", "slotcontrast"))])
def test_the_papers_recipes_on_a_tiny_backbone(name, caches, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    leave_out_images(monkeypatch)
    recipe = RECIPES[name]
    publish(caches, recipe.backbone.removeprefix("hf:"), "dinov2" if "dinov2" in name else "dino")
    recipe = small(name)
    result = oh.train(recipe, tmp_path / "run", device="cpu")
    assert {"feature_mse", "video_fg_ari", "video_mbo", "id_switch_rate"} <= set(result["scores"])
    assert oh.evaluate(oh.load(tmp_path / "run"), recipe) == pytest.approx(result["scores"], abs=1e-5)


def test_floors_of_clips_see_the_same_features():
    of_motion = {"motion_components", "motion_kmeans", "feature_motion_kmeans"}
    for motion in (0.0, 1.0):
        found = floors(small(motion=motion), num_scenes=2)
        assert {"blocks", "feature_kmeans", "untrained"} <= set(found) and "feature_cut" not in found
        assert {"video_fg_ari", "video_mbo", "id_switch_rate"} <= set(found["feature_kmeans"])
        assert of_motion & set(found) == (of_motion if motion else set())


def test_clips_of_a_folder(tmp_path):
    frames_of(tmp_path / "b2", 5)
    frames_of(tmp_path / "b10", 1)  # too short
    results, run = tmp_path / "found", tmp_path / "run"
    for folder in (results / "b2-masks", run / "figures"):
        frames_of(folder, 5)
    (results / VIDEO_RECORD).write_text(json.dumps({"format": VIDEO_FORMAT}))
    for name in ("recipe.json", "metrics.jsonl"):
        (run / name).write_text("{}")
    clips = ClipFolder(tmp_path, 16, frames=2)
    assert len(clips) == 2 and clips[0]["image"].shape == (2, 3, 16, 16)
    shades = [round(255 * clips[number]["image"][0, 0, 0, 0].item()) for number in range(2)]
    assert shades == [0, 16] and clips.overlaps
    for path, match in (
        (tmp_path / "none", "not a folder"),
        (tmp_path, "no video of at least 9 frames"),
        (results, "holds results of an earlier run"),
    ):
        with pytest.raises(ImageError, match=match):
            ClipFolder(path, 16, frames=9)


def test_clips_keep_their_split_wherever_the_folder_lies(tmp_path):
    for video in range(40):
        (tmp_path / "here" / f"{video}").mkdir(parents=True)
        Image.new("RGB", (16, 16), (6 * video, 0, 0)).save(tmp_path / "here" / f"{video}" / "0.png")
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "deeper")
    of = {}
    for folder in (tmp_path / "here", tmp_path / "there" / "deeper"):
        for split in ("train", "validation", "test"):
            clips = ClipFolder(folder, 16, split, frames=1)
            red = clips[list(range(len(clips)))]["image"][:, 0, 0, 0, 0].tolist()
            assert of.setdefault(split, red) == red
    assert sum(map(len, of.values())) >= 40 and not set(of["train"]) & set(of["test"])


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"frames": 1, "slot_contrast": 0.5, "motion": 0.0}, "must be at least 2"),
        ({"frames": 1, "motion": 1.0}, "must be at least 2"),
        ({"motion": -1.0}, "must be 0 or more"),
        ({"similarity": float("inf")}, "finite"),
        ({"clips": 0}, "number of `clips`"),
        ({"similarity_temperature": 0.0}, "above 0"),
        ({"data": "movies"}, "must be one of"),
    ],
)
def test_settings_that_cannot_be(changes, match):
    with pytest.raises(ValueError, match=match):
        small(**changes)


def test_normalised_state_of_the_gru():
    module = oh.SlotAttention(8, 6, iterations=1, mlp=False, normalized_state=True)
    plain = oh.SlotAttention(8, 6, iterations=1, mlp=False)
    plain.load_state_dict(module.state_dict())
    inputs, slots = torch.randn(1, 5, 8), torch.randn(1, 3, 6)
    normed = module.norm_slots(slots)
    updates = module.project_v(
        module.aggregate(
            module.compete(module.logits(slots, module.norm_inputs(inputs))), module.norm_inputs(inputs)
        )
    )
    wanted = module.gru(updates[0], normed[0])
    torch.testing.assert_close(module(inputs, slots).slots[0], wanted)
    assert not np.allclose(plain(inputs, slots).slots.detach(), wanted.detach())
