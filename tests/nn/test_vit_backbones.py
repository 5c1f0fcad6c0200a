"""Backbones of the hub: their tokens are the library's, without prefix tokens, at any size."""

import dataclasses
import json

import pytest
import torch
from tiny_vits import COMMIT, KINDS, PREFIX, publish, snapshot_folder, use_cache

from objecthood.nn import frozen
from objecthood.nn.frozen import FrozenPartError
from objecthood.nn.frozen_features import backbone
from objecthood.nn.vit_backbones import IMAGENET_DEVIATION, IMAGENET_MEAN

pytest.importorskip("transformers")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    return use_cache(tmp_path / "hub", monkeypatch)


def library_output(model, images, mean=IMAGENET_MEAN, deviation=IMAGENET_DEVIATION):
    """What the library's own model gives for the same images."""
    pixels = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(deviation)[:, None, None]
    model = getattr(model, "vit", model)  # of MAE the encoder
    options = {}
    if model.config.model_type in ("vit", "vit_mae"):
        options["interpolate_pos_encoding"] = True
    if model.config.model_type == "vit_mae":
        model.config.mask_ratio = 0.0
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True, **options)
    if "ids_restore" in output:  # MAE shuffles; put tokens back as its own decoder does
        back = torch.cat([torch.zeros(len(images), 1, dtype=torch.int64), output.ids_restore + 1], dim=1)
        index = back[..., None].expand_as(output.last_hidden_state)
        return output.last_hidden_state.gather(1, index), [
            hidden.gather(1, index) for hidden in output.hidden_states
        ]
    return output.last_hidden_state, output.hidden_states


@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
@pytest.mark.parametrize("kind", KINDS)
def test_features_are_the_patch_tokens_of_the_library(kind, size, cache):
    model = publish(cache, "someone/tiny", kind)
    features = backbone("hf:someone/tiny", final_norm=True)
    assert (features.stride, features.feature_dim) == (8, 24) and not list(features.parameters())
    images = torch.rand(2, 3, *size)
    rows, columns = features.grid(size)
    assert (rows, columns) == (size[0] // 8, size[1] // 8)
    last, hidden = library_output(model, images)
    prefix = PREFIX.get(kind, 1)
    assert last.shape[1] == prefix + rows * columns
    for layer, norm, expected in ((0, True, last), (0, False, hidden[3]), (2, False, hidden[2])):
        found = read_elsewhere(features, layer, norm)(images)
        assert found.shape == (2, rows, columns, 24)
        torch.testing.assert_close(found.flatten(1, 2), expected[:, prefix:], atol=1e-5, rtol=1e-4)


def read_elsewhere(features, layer, final_norm):
    """The same weights read elsewhere."""
    return type(features)(features.part, layer, final_norm)


def test_the_last_norm_is_applied_to_inner_layers_too(cache):
    model = publish(cache, "someone/tiny", "dino")
    images = torch.rand(1, 3, 32, 32)
    hidden = library_output(model, images)[1]
    found = backbone("hf:someone/tiny", layer=2, final_norm=True)(images)
    torch.testing.assert_close(found.flatten(1, 2), model.layernorm(hidden[2])[:, 1:])


def test_masked_autoencoders_mask_and_shuffle_nothing(cache):
    publish(cache, "someone/tiny", "mae")
    features, images = backbone("hf:someone/tiny"), torch.rand(2, 3, 32, 32)
    once, again = features(images), features(images)
    assert once.shape[1:3] == (4, 4) and torch.equal(once, again)


def test_mean_and_deviation_are_the_repositorys_own_and_part_of_the_identity(cache):
    publish(cache, "someone/other", "dino")
    model = publish(cache, "someone/half", "dino", image_mean=[0.5] * 3, image_std=[0.5] * 3)
    images = torch.rand(1, 3, 32, 32)
    found, other = backbone("hf:someone/half", final_norm=True), backbone("hf:someone/other")
    expected = library_output(model, images, [0.5] * 3, [0.5] * 3)[0][:, 1:]
    torch.testing.assert_close(found(images).flatten(1, 2), expected)
    assert found.identity.sha256 != other.identity.sha256, "the same weights on other inputs"


def test_its_revision_is_the_commit_and_its_hash_that_of_the_weights(cache):
    publish(cache, "someone/tiny", "dinov2")
    publish(cache, "someone/changed", "dinov2", seed=1)
    one, changed = backbone("hf:someone/tiny"), backbone("hf:someone/changed")
    assert (one.identity.name, one.identity.revision) == ("hf:someone/tiny", COMMIT)
    assert one.identity == backbone(f"hf:someone/tiny@{COMMIT}").identity
    assert one.identity.sha256 != changed.identity.sha256
    assert one.key != read_elsewhere(one, 2, False).key


def test_sizes_and_layers_that_do_not_fit_are_refused(cache):
    publish(cache, "someone/tiny", "dino")
    with pytest.raises(ValueError, match=r"30 x 32 pixels .* multiples of 8, .* take 32 x 32"):
        backbone("hf:someone/tiny")(torch.rand(1, 3, 30, 32))
    with pytest.raises(ValueError, match=r"`layer` \(=4\) must be 1 to 3"):
        backbone("hf:someone/tiny", layer=4)(torch.rand(1, 3, 32, 32))


def refused(match, name="hf:someone/tiny"):
    with pytest.raises(FrozenPartError, match=match) as caught:
        backbone(name)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_tensor_are_not_filled_with_random_numbers(cache):
    from safetensors.torch import load_file, save_file

    publish(cache, "someone/tiny", "dino")
    (file,) = cache.glob("models--someone--tiny/snapshots/*/model.safetensors")
    weights = load_file(file)
    del weights["layernorm.weight"]
    save_file(weights, file, {"format": "pt"})
    refused("lack 'layernorm.weight'")


def test_other_kinds_of_models_are_refused(cache):
    folder = snapshot_folder(cache, "someone/tiny")
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "model.safetensors").write_bytes(b"")
    refused("model type 'bert' must be one of vit, vit_mae, dinov2")


def test_what_is_not_there_is_refused_and_a_weight_file_starts_no_download(cache, monkeypatch):
    refused("cannot be found")
    wanted = frozen.Identity("hf:someone/tiny", COMMIT, "0" * 64)
    asked = []
    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", lambda *a, **k: asked.append(a))
    with frozen.only({"encoder": wanted}):
        refused(f"starts no download; if you trust it: hf download someone/tiny --revision {COMMIT}")
        refused("the file names hf:someone/tiny", "hf:someone/else")
    assert not asked


def test_a_weight_file_gets_what_lies_in_the_cache(cache):
    publish(cache, "someone/tiny", "dino")
    identity = backbone("hf:someone/tiny").identity
    with frozen.only({"encoder": identity}):
        assert backbone("hf:someone/tiny").identity == identity
    later = dataclasses.replace(identity, revision="1" * 40)
    with frozen.only({"encoder": later}):
        refused("starts no download")


def test_timm_names_need_timm(cache):
    try:
        import timm  # noqa: F401
    except Exception:
        refused("timm, which cannot be imported", "timm:vit_small_patch16_224.dino")
    else:
        refused("cannot be found", "timm:vit_small_patch16_224.dino")
