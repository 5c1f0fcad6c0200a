"""Data that goes away or changes while it is read: one line with its name, and nothing is lost."""

import json
import os
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import objecthood as oh
from objecthood.cli.main import main
from objecthood.data.feature_cache import CachedFeatures, FeatureCache
from objecthood.data.folder import Folder
from objecthood.data.io import cache
from objecthood.data.io.images import ImageError, ImageWarning
from objecthood.inference import predict_video
from objecthood.inference.predict import stream
from objecthood.models import video

AREA = "Disks and folders"


def to_folder(file):
    file.unlink()
    file.mkdir()


def to_pipe(file):
    file.unlink()
    os.mkfifo(file)


def to_loop(file):
    file.unlink()
    file.symlink_to(file.name)


def to_unreadable(file):
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))


CHANGES = {
    "deleted": (lambda file: file.unlink(), "cannot be opened .No such file"),
    "cut": (lambda file: os.truncate(file, file.stat().st_size // 2), "truncated"),
    "emptied": (lambda file: os.truncate(file, 0), "is empty"),
    "overwritten": (to_unreadable, "damaged image|not a readable image"),
    "a folder": (to_folder, "is a folder"),
    "a pipe": (to_pipe, "not a regular file"),
    "a loop": (to_loop, "cannot be opened"),
}


def images(folder, count=12, size=20):
    """A folder of noise."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    for number in range(count):
        pixels = numbers.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    return folder


def coco(folder, count=12, size=20):
    """Images and one square in each."""
    images(folder / "images", count, size)
    square = [[2, 2, 12, 2, 12, 12, 2, 12]]
    content = {
        "images": [
            {"id": n, "file_name": f"{n:03d}.png", "height": size, "width": size} for n in range(count)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": square} for n in range(count)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("skip", [False, True])
def test_images_of_predict(kind, skip, tmp_path, scoreboard):
    """The last two of twelve change after the first result."""
    change, said = CHANGES[kind]
    folder, seen = images(tmp_path / "in"), []
    try:
        for result in stream("tetrominoes", folder, tmp_path / "out", batch_size=2, skip_bad=skip):
            if not seen:
                for name in ("010.png", "011.png"):
                    change(folder / name)
            seen.append(result)
    except ImageError as error:
        assert not skip
        problems, good = [str(error)], len(seen)
    else:
        assert skip
        problems = [result.error for result in seen if result.error]
        good = len(seen) - len(problems)
    assert good == 10 and len(problems) == (2 if skip else 1)
    for problem, name in zip(problems, ("010.png", "011.png"), strict=skip):
        assert name in problem and "\n" not in problem
        with pytest.raises(ImageError, match=said):
            raise ImageError(problem)
    written = {path.name for path in (tmp_path / "out").glob("*-masks.json")}
    assert written == {f"{number:03d}-masks.json" for number in range(10)}
    scoreboard(AREA, "an image that goes away or changes under `predict`: one line, other results whole", 1)


@pytest.fixture
def uncached(monkeypatch):
    """Images are read anew at every use, as those beyond the memory for them."""
    monkeypatch.setattr(cache, "CACHE_BYTES", 0)


RECIPE = """
from objecthood.recipes import Discovery
recipe = Discovery(
    name="small", data={data!r}, data_path={path!r}, resolution=16, num_slots=3, steps=8, batch_size=2,
    evaluate_every=100, validation_scenes=2, test_scenes=2, warmup_steps=2, precision="float32",
)
"""


@pytest.mark.parametrize(
    ("data", "kind"), [("folder", "deleted"), ("folder", "cut"), ("coco", "deleted"), ("coco", "overwritten")]
)
def test_data_of_a_training_that_goes_away_and_comes_back(
    data, kind, tmp_path, uncached, monkeypatch, capsys, scoreboard
):
    """What was trained is saved, and the resumed run ends with the weights of an undisturbed one."""
    make = images if data == "folder" else coco
    place = make(tmp_path / "data", 60)
    folder = place if data == "folder" else place / "images"
    file = tmp_path / "small.py"
    file.write_text(RECIPE.format(data=data, path=str(place)))
    plain, loss = tmp_path / "plain", oh.recipes.Discovery.loss
    assert main(["train", str(file), "--out", str(plain)]) == 0

    def change_at(recipe, model, scenes, step):
        if step == 3:
            for image in folder.glob("*.png"):
                CHANGES[kind][0](image)
        return loss(recipe, model, scenes, step)

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(oh.recipes.Discovery, "loss", change_at)
        capsys.readouterr()
        assert main(["train", str(file), "--out", str(run)]) == 1
    told = capsys.readouterr()
    (line,) = told.err.splitlines()
    assert str(folder) in line and f"train --resume {run}" in told.out
    (saved,) = (run / "checkpoints").glob("step_*")
    assert int(saved.name[-8:]) >= 4
    shutil.rmtree(place)
    make(place, 60)
    assert main(["train", "--resume", str(run)]) == 0
    one, other = (oh.load(out).state_dict() for out in (plain, run))
    assert all(torch.equal(one[name], other[name]) for name in one)
    scoreboard(AREA, "data that goes away under `train`, and comes back: saved, and the same weights", 1)


def test_a_resumed_run_tells_that_data_is_missing(tmp_path, monkeypatch, capsys):
    file = tmp_path / "small.py"
    file.write_text(RECIPE.format(data="folder", path=str(images(tmp_path / "data", 30))))
    loss = oh.recipes.Discovery.loss

    def stop_at_two(recipe, model, scenes, step):
        if step == 2:
            os.kill(os.getpid(), 10)  # SIGUSR1
        return loss(recipe, model, scenes, step)

    with monkeypatch.context() as patched:
        patched.setattr(oh.recipes.Discovery, "loss", stop_at_two)
        assert main(["train", str(file), "--out", str(tmp_path / "run")]) == 75
    before = len(Folder(tmp_path / "data", 16))
    for image in sorted((tmp_path / "data").iterdir())[:5]:
        image.unlink()
    after = len(Folder(tmp_path / "data", 16))
    assert after < before
    capsys.readouterr()
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert f"the data has {after} scenes, and had {before} before" in capsys.readouterr().out


def test_an_image_that_takes_another_size_is_told_with_both(tmp_path, uncached):
    place = coco(tmp_path / "data")
    settings = dict(data_path=str(place), resolution=16, num_slots=3, steps=1, batch_size=2)
    recipe = oh.recipes.Discovery(name="small", data="coco", **settings)
    scenes = recipe.dataset("train")
    for image in (place / "images").iterdir():
        Image.new("RGB", (9, 8)).save(image)
    with pytest.raises(
        ValueError, match=r"is 9 x 8, not 20 x 20 as .*; restore the image, or correct"
    ) as told:
        oh.evaluate(recipe.build_model(), recipe, "train", 2)
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="is 9 x 8, not 20 x 20"):
        scenes[[0]]


def means(scenes):
    return torch.nn.functional.avg_pool2d(scenes["image"], 4).movedim(1, -1)


def test_features_that_are_cut_or_removed(tmp_path):
    """To read a mapped file beyond its end would kill the process."""
    kept = FeatureCache(tmp_path / "cache", "means", (4, 4, 3))
    scenes = CachedFeatures(Folder(images(tmp_path / "data"), 16), means, kept)
    whole = scenes[range(len(scenes))]["features"]
    (file,) = (tmp_path / "cache").glob("*/features.bin")
    content = file.read_bytes()
    os.truncate(file, 100)
    with pytest.raises(ValueError, match=r"features.bin was cut to 100 of \d+ bytes .*; restore it") as told:
        scenes[[0]]
    assert "\n" not in str(told.value)
    file.write_bytes(content)
    assert torch.equal(scenes[range(len(scenes))]["features"], whole)
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(scenes[range(len(scenes))]["features"], whole), "who has it open keeps it"


def test_a_cache_that_another_process_is_writing_to(tmp_path):
    """Half a row at the end is not read."""
    kept = FeatureCache(tmp_path / "cache", "means", (4, 4, 3))
    scenes = CachedFeatures(Folder(images(tmp_path / "data"), 16), means, kept)
    (file,) = (tmp_path / "cache").glob("*/features.bin")
    with file.open("ab") as half:
        half.write(b"half a row")
    assert torch.isfinite(scenes[[0]]["features"]).all()


def test_a_video_that_is_cut_between_two_readings(tmp_path, monkeypatch):
    """Motion is computed ahead: the second reading may find fewer frames than the first."""
    av = pytest.importorskip("av", reason="needs PyAV, the extra `video`")
    from objecthood.data.io.video_file import VideoFile

    clip, numbers = tmp_path / "clip.avi", np.random.default_rng(0)
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for _ in range(40):
            pixels = numbers.integers(0, 256, (128, 128, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())

    def still(model, frames):
        return torch.zeros(len(frames), 32, 32)

    monkeypatch.setattr(predict_video, "moving_masks", still)
    model, found = video.moving_sprites(num_slots=4, resolution=32), []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ImageWarning)
        for frame in predict_video.look_at_motion(model, VideoFile(clip)):
            found.append(frame)
            if len(found) == 1:
                os.truncate(clip, clip.stat().st_size // 2)
    assert 1 < len(found) < 40
    assert any("cut short after" in str(one.message) for one in told)
