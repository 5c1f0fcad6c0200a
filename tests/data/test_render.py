"""Images that fit their masks, the same every time; shards that outlive a kill; scenes in the package."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from objecthood.data.clevr_render import clevr_like
from objecthood.data.clevr_render.arrangement import draw_scene
from objecthood.data.clevr_render.clevr_like import SAMPLES, ClevrLike, ClevrLikeError, render_dataset
from objecthood.data.clevr_render.render import RenderError, choose_variant, encode, find_llvm, render_image
from objecthood.data.clevr_render.view import crop_masks
from objecthood.data.scene import Dataset


@pytest.fixture
def renderer() -> str:
    pytest.importorskip("mitsuba", reason="needs mitsuba: pip install 'objecthood[render]'")
    return choose_variant()[0]


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(clevr_like, "SHARD_SCENES", 3)


def test_a_image_is_the_same_every_time(renderer):
    scene = draw_scene(0, 4, (3, 6))
    first, other, again = (render_image(scene, 0, index, 32) for index in (4, 5, 4))
    assert first.shape == (32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)  # the same scene with other grain
    assert np.abs(first.astype(int) - other).mean() < 3


def test_objects_in_the_image_lie_where_the_masks_say(renderer):
    """The ground is grey: pixels of strong colour are objects, and coloured matt objects are such pixels."""
    for index in range(4):
        scene = draw_scene(5, index, (3, 6))
        picture = render_image(scene, 5, index, 64).astype(int)
        masks = crop_masks(scene, 64)
        colorful = np.ptp(picture, axis=2) > 40
        assert (masks[colorful] > 0).mean() > 0.93
        wanted = 1 + np.flatnonzero((scene.colors > 0) & (scene.materials == 0))
        if np.isin(masks, wanted).any():
            assert colorful[np.isin(masks, wanted)].mean() > 0.8


def test_the_ground_has_the_levels_of_published_images(renderer):
    """Mean levels of the corners: 106, 103, 122, 149 (top left, top right, bottom left, bottom right)."""
    pictures = np.stack([render_image(draw_scene(0, i, (3, 6)), 0, i, 32) for i in range(12)])
    corners = [pictures[:, rows, columns].mean() for rows in (_HIGH, _LOW) for columns in (_HIGH, _LOW)]
    assert np.abs(np.array(corners) - [106, 103, 122, 149]).max() < 15


_HIGH, _LOW = slice(0, 3), slice(-3, None)


def test_textures_change_ground_and_objects_but_nothing_else(renderer):
    scene = draw_scene(0, 1, (3, 6))
    plain, textured = (render_image(scene, 0, 1, 64, kind) for kind in ("plain", "textured"))
    ground = crop_masks(scene, 64) == 0
    assert textured[ground].std(axis=0).max() > plain[ground].std(axis=0).max()
    with pytest.raises(ValueError, match="'stripy'.*plain, textured"):
        render_image(scene, 0, 1, 64, "stripy")


SLOW = """
import sys
import numpy as np
from objecthood.data.clevr_render.arrangement import draw_scene
from objecthood.data.clevr_render.render import choose_variant, render_image
assert choose_variant()[0] == "scalar_rgb" and "libllvm19" in choose_variant()[1]
np.save(sys.argv[1], [render_image(draw_scene(5, 1, (3, 6)), 5, 1, 32) for _ in range(2)])
"""


def test_the_slow_renderer_makes_nearly_the_same_image(renderer, tmp_path):
    """Mitsuba's variant is one per process in effect, so the slow one runs in its own."""
    file = tmp_path / "slow.npy"
    environment = os.environ | {"OBJECTHOOD_RENDERER": "scalar"}
    subprocess.run([sys.executable, "-c", SLOW, str(file)], env=environment, check=True)
    slow, again = np.load(file)
    assert np.array_equal(slow, again)
    here = render_image(draw_scene(5, 1, (3, 6)), 5, 1, 32)
    assert np.abs(slow.astype(int) - here).mean() < 10


def test_a_missing_renderer_is_one_line_with_the_remedy(monkeypatch):
    choose_variant.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "mitsuba", None)
    with pytest.raises(RenderError, match=r"pip install 'objecthood\[render\]'"):
        choose_variant()
    choose_variant.cache_clear()


def test_llvm_is_taken_from_where_the_user_says(monkeypatch, tmp_path):
    library = tmp_path / "libLLVM.so.20.1"
    library.touch()
    monkeypatch.setenv("DRJIT_LIBLLVM_PATH", str(library))
    assert find_llvm() == str(library)


def test_llvm_that_is_too_old_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.delenv("DRJIT_LIBLLVM_PATH", raising=False)
    monkeypatch.setattr("objecthood.data.clevr_render.render.LLVM_PLACES", (f"{tmp_path}/*",))
    (tmp_path / "libLLVM-14.so").touch()
    assert find_llvm() is None
    (tmp_path / "libLLVM.so.19.1").touch()
    (tmp_path / "libLLVM-21.so.1").touch()
    assert find_llvm() == str(tmp_path / "libLLVM-21.so.1")


def test_encoding_is_srgb():
    assert encode(np.array([[[0.0, 1.0, 0.2158605]]]))[0, 0].tolist() == [0, 255, 128]


def test_a_killed_run_goes_on_and_ends_alike(renderer, small_shards, tmp_path):
    seen = []
    whole = render_dataset(tmp_path / "whole", 7, resolution=32, progress=lambda *at: seen.append(at))
    assert seen == [(done, 7) for done in range(1, 8)]
    assert sorted(path.name for path in whole.iterdir()) == [
        *(f"0000{i}.npz" for i in range(3)),
        "manifest.json",
    ]

    def killed(done: int, count: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_dataset(tmp_path / "cut", 7, resolution=32, progress=killed)
    cut = tmp_path / "cut" / "train"
    assert list(json.loads((cut / "manifest.json").read_text())["shards"]) == ["00000.npz"]
    (cut / "00001.npz.part").write_bytes(b"half")
    seen.clear()
    render_dataset(tmp_path / "cut", 7, resolution=32, progress=lambda *at: seen.append(at))
    assert seen[0] == (3, 7)  # the first shard was kept
    for path in whole.iterdir():
        assert path.read_bytes() == (cut / path.name).read_bytes()


def test_a_lost_shard_is_made_again_and_more_scenes_are_added(renderer, small_shards, tmp_path):
    folder = render_dataset(tmp_path, 4, resolution=32, split="test")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "00000.npz").unlink()
    render_dataset(tmp_path, 4, resolution=32, split="test")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    first = ClevrLike(tmp_path, "test")[range(4)]
    render_dataset(tmp_path, 5, resolution=32, split="test")
    more = ClevrLike(tmp_path, "test")
    assert len(more) == 5 and torch.equal(more[range(4)]["image"], first["image"])


def test_a_folder_of_other_scenes_is_left_alone(renderer, small_shards, tmp_path):
    render_dataset(tmp_path, 1, resolution=16)
    with pytest.raises(ClevrLikeError, match="resolution 16, not 32"):
        render_dataset(tmp_path, 1, resolution=32)
    with pytest.raises(ClevrLikeError, match="seed 0, not 1"):
        render_dataset(tmp_path, 1, resolution=16, seed=1)


def test_splits_have_scenes_of_their_own(renderer, tmp_path):
    for split in ("train", "test"):
        render_dataset(tmp_path, 1, resolution=16, split=split)
    train, test = (ClevrLike(tmp_path, split)[[0]]["properties"] for split in ("train", "test"))
    assert not torch.equal(train, test)


@pytest.fixture(scope="module")
def samples() -> ClevrLike:
    return ClevrLike()


def test_the_package_holds_256_scenes_in_few_bytes(samples):
    assert isinstance(samples, Dataset) and len(samples) == 256
    size = sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file())
    assert size < 1.6e6 and size / 256 < 6e3


def test_the_packages_scenes_keep_the_contract(samples):
    scenes = samples[range(256)]
    image, masks, properties = scenes["image"], scenes["masks"], scenes["properties"]
    assert image.shape == (256, 3, 128, 128) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1 and image.max() > 0.9
    assert masks.dtype == torch.int64 and masks.min() == 0 and masks.max() == 10
    assert properties.shape == (256, 10, 19) and properties.dtype == torch.float32


def test_rows_of_properties_are_the_labels_of_the_masks(samples):
    """Real objects show at least 16 pixels; of the others, at most a sliver shows."""
    scenes = samples[range(256)]
    counts = torch.stack([(scenes["masks"] == label).sum((1, 2)) for label in range(1, 11)], dim=1)
    real = scenes["properties"][..., -1] == 1
    assert (counts[real] >= 17).all() and (counts[~real] < 17).all()
    assert (scenes["properties"][~real] == 0).all()
    groups = [scenes["properties"][real][:, start:end] for start, end in ((3, 5), (5, 7), (7, 10), (10, 18))]
    assert all((group.sum(1) == 1).all() for group in groups)
    coordinates = scenes["properties"][real][:, :3]
    assert coordinates.min() >= 0 and coordinates.max() <= 1


def test_the_packages_scenes_are_those_of_their_seed(samples):
    """Numbers and masks need no renderer, so they can be checked anywhere."""
    scenes = samples[[0, 200]]
    for row, index in enumerate((0, 200)):
        scene = draw_scene(2, index)  # 2: the key of seed 0, split "test"
        assert np.array_equal(scenes["masks"][row].numpy(), crop_masks(scene, 128))


def test_scenes_can_be_chosen_resized_and_counted(samples):
    few = ClevrLike(objects=(3, 6), resolution=64, count=5)
    assert len(few) == 5
    scenes = few[[4, 0]]
    assert scenes["image"].shape == (2, 3, 64, 64) and scenes["masks"].shape == (2, 64, 64)
    assert scenes["masks"].max() <= 6
    assert torch.equal(few[[0]]["image"], scenes["image"][1:])


def test_masks_stay_on_their_objects_when_the_image_is_halved(samples):
    """At 2 to 1 the label nearest to a centre lies a quarter of a pixel off; a score would show it."""
    half = ClevrLike(resolution=64)[range(64)]["masks"]
    whole = samples[range(64)]["masks"]
    shifts = []
    for small, large in zip(half, whole, strict=True):
        for label in range(1, int(large.max()) + 1):
            if (large == label).sum() >= 200 and (small == label).any():
                # Centres of pixels in units of the small image's pixels.
                there = (torch.nonzero(large == label).double() + 0.5).mean(dim=0) / 2
                here = (torch.nonzero(small == label).double() + 0.5).mean(dim=0)
                shifts.append(here - there)
    assert len(shifts) > 150
    assert torch.stack(shifts).mean(dim=0).abs().max() < 0.03


def test_wrong_requests_are_one_line(tmp_path):
    with pytest.raises(ClevrLikeError, match=r"'train' \(there: test\)"):
        ClevrLike(split="train")
    with pytest.raises(ClevrLikeError, match="there: none"):
        ClevrLike(tmp_path)
    with pytest.raises(ValueError, match="'half'"):
        ClevrLike(split="half")
    with pytest.raises(ValueError, match="2-3"):
        ClevrLike(objects=(2, 3))


def test_a_damaged_shard_is_named(tmp_path):
    folder = tmp_path / "test"
    folder.mkdir()
    for path in (SAMPLES / "test").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    shard = folder / "00000.npz"
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(ClevrLikeError, match=r"00000.npz.*delete it and render again"):
        ClevrLike(tmp_path)
