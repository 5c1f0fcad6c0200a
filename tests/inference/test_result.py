"""What `predict` gives: the model's own output, figures, files, a notebook's view; nothing kept too long."""

import gc
import html.parser
import json
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from PIL import Image
from videos import write_bars

import objecthood as oh
from objecthood.cli.main import main
from objecthood.data.io.images import ImageError, read_image
from objecthood.data.io.video_file import VideoFile
from objecthood.data.randomness import restart_noise
from objecthood.inference.masks import PredictedMasks
from objecthood.inference.objects import PredictedObjects
from objecthood.inference.predict import stream
from objecthood.inference.result import Animation, Result


@pytest.fixture(scope="module")
def seen() -> PredictedMasks:
    """The image that comes with the weights of `clevr`."""
    (result,) = oh.predict("clevr")
    assert isinstance(result, PredictedMasks)
    return result


def test_it_is_the_models_own_output(seen):
    model = oh.load("clevr")
    noise = restart_noise(np.zeros(1, np.int64), model.restarts, 7, 64)
    scene = model.segment(seen.image[None], noise=noise)
    for name in ("masks", "slots", "attention", "reconstruction", "appearance"):
        assert torch.equal(getattr(seen, name), getattr(scene, name)[0].detach()), name
    assert seen.masks.shape == (7, 64, 64) and seen.attention.shape == (5, 7, 32, 32)
    assert seen.size == (128, 128) and seen.pixels.shape == (128, 128, 3)
    assert seen.warning == seen.error == "" and seen.path == oh.PRETRAINED["clevr"].example


def test_the_first_thing_anyone_sees_is_right(seen):
    """Six things and the ground, each in a slot of its own."""
    assert seen.summary == "7 of 7 slots active"
    shares = np.bincount(seen.labels.ravel(), minlength=7) / seen.labels.size
    assert shares.max() > 0.6 and shares.min() > 0.003


def test_figures(seen, tmp_path):
    assert seen.plot().size == seen.plot("slots").size and seen.plot("overlay").size == (128, 128)
    assert seen.plot("attention").height > seen.plot("slots").height
    with pytest.raises(ValueError, match="`kind` \\(='masks'\\) must be one of slots, overlay, attention"):
        seen.plot("masks")
    animation = seen.animate()
    assert len(animation.frames) == 5 * 6 + 4 * 5 + 6 and "animation" not in seen.files
    assert seen.animate(tmp_path / "seen.webp").frames and seen.files.pop("animation").stat().st_size > 1000
    assert animation._repr_html_().startswith('<img alt="attention')


@pytest.mark.parametrize("size", [(20, 10), (21, 10)])
def test_an_animation_becomes_a_film(tmp_path, size):
    pytest.importorskip("av", reason="needs the extra [video]")
    colors = [(0, 60, 200), (230, 120, 0), (0, 140, 60)]
    animation = Animation([Image.new("RGB", size, color) for color in colors], milliseconds=40)
    film = VideoFile(animation.save(tmp_path / "moving.mp4"))
    assert (film.size, film.rate) == (size[::-1], 25)
    for frame, color in zip(film, colors, strict=True):
        assert np.abs(frame.astype(int) - color).max() < 16


def test_saved_alone_as_by_predict(tmp_path):
    path = oh.PRETRAINED["sprites"].example
    (alone,) = oh.predict("sprites", path)
    assert alone.files == {}
    alone.save(tmp_path / "alone", animate=True)
    (together,) = oh.predict("sprites", path, tmp_path / "together", animate=True)
    assert set(alone.files) == set(together.files) == {"overlay", "masks", "coco", "animation"}
    for kind, file in alone.files.items():
        other = together.files[kind]
        assert file.name == other.name and file.read_bytes() == other.read_bytes()
    assert json.loads(alone.files["coco"].read_text()) == alone.to_coco()
    np.testing.assert_array_equal(np.array(Image.open(alone.files["masks"])), alone.labels)
    with pytest.raises(ValueError, match="holds files that are not predictions"):
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "x").touch()
        alone.save(tmp_path / "theirs")


def test_scores_are_mean_masks_and_go_where_the_masks_go():
    (result,) = oh.predict("sprites")
    largest, owner = result.masks.max(dim=0)
    annotations = result.to_coco()["annotations"]
    assert len(annotations) > 2
    for one in annotations:
        mean = largest[owner == one["slot"]].mean().item()
        assert one["score"] == pytest.approx(mean, abs=1e-4) and 0.2 < mean <= 1


def test_detections_of_supervision():
    supervision = pytest.importorskip("supervision")
    (result,) = oh.predict("sprites")
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections)
    for number, one in enumerate(result.to_coco()["annotations"]):
        left, top, width, height = one["bbox"]
        assert found.data["slot"][number] == one["slot"]
        assert found.xyxy[number].tolist() == [left, top, left + width, top + height]
        assert found.confidence[number] == pytest.approx(one["score"], abs=1e-4)
        np.testing.assert_array_equal(found.mask[number], result.labels == one["slot"])
    assert len(found) == number + 1


def test_without_supervision_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="pip install supervision"):
        oh.predict("sprites")[0].to_supervision()


def test_user_images_in_memory(tmp_path):
    picture = read_image(oh.PRETRAINED["sprites"].example)
    results = oh.predict("sprites", [picture, Image.fromarray(picture)], tmp_path / "out", animate=False)
    assert [str(one.path) for one in results] == ["image-1", "image-2"]
    assert torch.equal(results[0].masks, results[1].masks) and (results[0].pixels == picture).all()
    assert (tmp_path / "out" / "image-2-overlay.png").exists()


def test_objects():
    (result,) = oh.predict("set-clevr")
    assert isinstance(result, PredictedObjects) and not hasattr(result, "masks")
    names = {thing["name"] for thing in result.objects}
    assert {"large cyan rubber sphere", "small red rubber cube", "large purple metal cylinder"} <= names
    assert result.summary.count("rubber") >= 3 and min(result.plot().size) >= 640
    assert result.properties.shape == (10, 19)


class Tags(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.sources += [dict(attributes)["src"]] if tag == "img" else []

    def handle_data(self, data):
        self.words += data


def test_shown_in_a_notebook(seen):
    shown = Tags(seen._repr_html_())
    assert len(shown.sources) == 2 and all(one.startswith("data:image/png;base64,") for one in shown.sources)
    assert shown.words == "clevr.png: 7 of 7 slots active"
    hostile = Tags(Result(seen.path.with_name("<img src=x>"), seen.relative, error="<b>no</b>")._repr_html_())
    assert hostile.sources == [] and hostile.words == "<img src=x>: <b>no</b>"


def test_a_skipped_image_has_no_results(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"\x89PNG")
    (result,) = oh.predict("sprites", tmp_path / "bad.png", skip_bad=True)
    assert "bad.png" in result.error and result.files == {}
    for ask in ("slots", "attention", "image", "pixels"):
        with pytest.raises(ValueError, match="bad.png was skipped and has no results"):
            getattr(result, ask)
    with pytest.raises(ValueError, match="was skipped and has no results"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists() and "bad.png" in repr(result) and result._repr_html_()


def test_a_video_is_seen_frame_by_frame(tmp_path, capsys):
    path = write_bars(tmp_path / "clip.mp4", count=20)
    told = []
    results = oh.predict("sprites", path, tmp_path / "out", report=lambda *one: told.append(one))
    assert len(results) == 20 and told[0][1] == 20 and results[3].path.name == "clip.mp4#000003"
    for number in (0, 19):
        assert (tmp_path / "out" / "clip" / f"{number:06d}-masks.png").exists()
    assert not list((tmp_path / "out").rglob("*.gif"))
    assert main(["predict", str(path), "--weights", "sprites", "--out", str(tmp_path / "again")]) == 0
    assert (
        f"{path}: 20 frames" in capsys.readouterr().out and (tmp_path / "again" / "clip-overlay.mp4").exists()
    )


def test_a_damaged_video_is_told_of(tmp_path):
    path = write_bars(tmp_path / "clip.mp4")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ImageError, match="clip.mp4"):
        oh.predict("sprites", path)
    results = oh.predict("sprites", [path, oh.PRETRAINED["sprites"].example], skip_bad=True)
    assert [bool(one.error) for one in results] == [True, False]


def test_a_stream_keeps_nothing(tmp_path):
    """Of twelve batches no more than two are alive at a time."""
    alive: list[weakref.ref] = []
    most = 0
    pictures = (np.full((40, 40, 3), value, np.uint8) for value in range(24))
    gc.freeze()  # what was there before is of no interest, and takes a second to walk through
    for result in stream("sprites", pictures, batch_size=2):
        alive.append(weakref.ref(result))
        gc.collect()
        most = max(most, sum(one() is not None for one in alive))
    gc.unfreeze()
    assert len(alive) == 24 and most <= 4


def test_a_stream_checks_at_once(tmp_path):
    with pytest.raises(ValueError, match="`num_slots`"):
        stream("sprites", num_slots=0)
    with pytest.raises(ValueError, match="have no bundled example"):
        stream(oh.load("sprites"))


def test_the_command_without_arguments(tmp_path):
    """In a fresh process and folder, without network where that can be had: an image, found and drawn."""
    alone = ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        alone = []
    code = (
        "import resource, objecthood.cli.main; code = objecthood.cli.main.main(['predict'])\n"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)\n"
        "raise SystemExit(code)"
    )
    where = {"PYTHONPATH": os.path.dirname(os.path.dirname(oh.__file__)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*alone, sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | where,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    *said, seconds = done.stdout.splitlines()
    assert any(line.endswith("clevr.png: 7 of 7 slots active") for line in said)
    assert float(seconds) < 20
    for ending in ("overlay.png", "masks.png", "masks.json"):
        assert (tmp_path / "predictions" / f"clevr-{ending}").stat().st_size > 100


def test_a_image_from_stdin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open(oh.PRETRAINED["sprites"].example) as image:
        monkeypatch.setattr(sys, "stdin", image)
        assert main(["predict", "-", "--weights", "sprites", "--no-animation"]) == 0
    assert (tmp_path / "predictions" / "image-1-overlay.png").exists()
