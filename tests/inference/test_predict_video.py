"""Videos in, videos out: nothing lost on the way, whatever the length; one line where it cannot be done."""

import csv
import errno
import gc
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image
from places import ROOT
from videos import some_frames, write_video

import objecthood
from objecthood.cli.main import main
from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.images import ImageError
from objecthood.inference.predict_video import COLUMNS, Boxes, predict_video
from objecthood.models import autoencoder, video
from objecthood.models.placement import whole
from objecthood.motion.components import MEMORY, ObjectSlots
from objecthood.motion.tracking import Tracks
from objecthood.runtime.files import staged
from objecthood.runtime.signals import INTERRUPTED, PREEMPTED
from objecthood.visualize import figures

av = pytest.importorskip("av", reason="needs PyAV, the extra `video`")
from objecthood.data.io.video_file import VideoFile  # noqa: E402

MODEL = video.moving_sprites(num_slots=4, resolution=32)


@pytest.mark.parametrize("size", [(48, 66), (33, 35)])
def test_a_video_comes_back_with_all_its_frames_at_its_size_and_rate(tmp_path, size):
    frames = some_frames(11, *size)
    source = VideoFile(write_video(tmp_path / "clip.mp4", frames))
    assert source.size == size and source.rate == Fraction(30000, 1001) and source.num_frames == 11
    back = np.stack(list(source))
    assert back.shape == frames.shape
    assert np.abs(back.astype(int) - frames).mean() < 6, "H.264 at half colour resolution"


def test_prediction_keeps_the_video_and_writes_the_tracks(tmp_path):
    frames = some_frames(9)
    clip = write_video(tmp_path / "clip.mp4", frames)
    before = clip.read_bytes()
    result = predict_video(MODEL, clip, tmp_path / "out")
    assert clip.read_bytes() == before and result.frames == 9
    shown = VideoFile(result.files["video"])
    assert (shown.size, shown.rate, shown.num_frames) == ((48, 66), Fraction(30000, 1001), 9)
    masks = sorted(result.files["masks"].iterdir())
    assert [mask.name for mask in masks] == [f"{n:06d}.png" for n in range(9)]
    facts = json.loads(result.files["json"].read_text())
    assert (facts["width"], facts["height"], facts["frames"]) == (66, 48, 9)
    rows = list(csv.DictReader(result.files["csv"].read_text().splitlines()))
    assert list(rows[0]) == list(COLUMNS) == facts["columns"] and len(rows) == len(facts["tracks"])
    for row, entry in zip(rows, facts["tracks"], strict=True):
        assert [float(row[name]) for name in COLUMNS[:-1]] == entry[:-1] and row["moving"] == str(
            int(entry[-1])
        )
    for number, mask in enumerate(masks):
        with Image.open(mask) as picture:
            labels = np.asarray(picture)
        assert labels.shape == (48, 66)
        share = sum(float(row["area"]) for row in rows if row["frame"] == str(number))
        assert share > 0.95, "of the frame belongs to slots with a track"
    for slot in facts["slots"]:
        its = [entry for entry in facts["tracks"] if entry[2] == slot["slot"]]
        assert slot["frames"] == len(its) and slot["moving_frames"] == sum(entry[-1] for entry in its)


def test_masks_are_those_of_the_model_run_on_the_whole_clip(tmp_path):
    frames = some_frames(5, 32, 32)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{number}.png")
    result = predict_video(MODEL, folder, tmp_path / "out")
    clip = torch.from_numpy(frames).permute(0, 3, 1, 2)[None].float() / 255
    with torch.no_grad():
        wanted = MODEL.eval()(clip).masks[0].argmax(1).numpy()
    for number in range(5):
        with Image.open(result.files["masks"] / f"{number:06d}.png") as picture:
            assert (np.asarray(picture) == wanted[number]).mean() > 0.999


def test_a_second_prediction_replaces_the_first_and_foreign_folders_stay(tmp_path):
    clip = write_video(tmp_path / "clip.mp4", some_frames(4))
    predict_video(MODEL, clip, tmp_path / "out")
    write_video(clip, some_frames(2))
    result = predict_video(MODEL, clip, tmp_path / "out")
    assert len(list(result.files["masks"].iterdir())) == 2
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ValueError, match="holds files that are not video predictions"):
        predict_video(MODEL, clip, tmp_path / "mine")
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_the_command(tmp_path, capsys):
    recipe = objecthood.recipes.from_dict(
        objecthood.RECIPES["moving-sprites"].to_dict() | {"resolution": 32, "num_slots": 3}
    )
    weights = objecthood.save(recipe.build_model(), recipe, tmp_path / "weights.safetensors")
    clip = write_video(tmp_path / "clip.mp4", some_frames(3))
    out = tmp_path / "out"
    assert main(["predict", str(clip), "--weights", str(weights), "--out", str(out)]) == 0
    assert "3 frames" in capsys.readouterr().out and (out / "clip-overlay.mp4").is_file()
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    assert main(["predict", str(picture), "--weights", str(weights), "--out", str(out)]) == 1
    assert "name video files or folders of frames" in capsys.readouterr().err
    assert main(["predict", str(clip), str(picture), "--weights", str(weights), "--out", str(out)]) == 1
    assert "mix videos and images" in capsys.readouterr().err


def test_a_image_model_takes_frames_for_themselves(tmp_path, unchecked):
    model = autoencoder.fast_sprites(num_slots=3, resolution=32)
    clip = write_video(tmp_path / "clip.mp4", some_frames(3))
    assert predict_video(model, clip, tmp_path / "out").frames == 3
    with pytest.raises(ValueError, match="a Linear cannot predict videos"):
        predict_video(torch.nn.Linear(1, 1), clip, tmp_path / "out")


LONG = """
import sys, itertools, numpy, torch
from pathlib import Path
torch.set_num_threads(1)
from peak import peak
from objecthood.models import video
from objecthood.inference.predict_video import look, Table
model = video.moving_sprites(num_slots=3, resolution=16).eval()
frame = numpy.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=numpy.uint8)
def run(count):
    files = {kind: Path(sys.argv[1]) / kind for kind in ("csv", "json")}
    with Table(files["csv"], files["json"], {"rate": 25.0}) as table:
        for *_, tracks in look(model, itertools.repeat(frame, count)):
            table.add(tracks, (1.0, 1.0), 256)
run(20)
before = peak()
run(200)  # 45 MB of images
print(peak() - before)
"""


def test_memory_stays_flat_however_long_the_stream(tmp_path):
    environment = {"PYTHONPATH": f"{ROOT}/tests/support:{ROOT}", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", LONG, str(tmp_path)], capture_output=True, text=True, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 8, "MB"


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="counts threads in /proc")
def test_reading_keeps_no_threads_of_earlier_frames(tmp_path):
    clip, threads = VideoFile(write_video(tmp_path / "clip.mp4", some_frames(20))), []
    gc.disable()  # it runs when enough objects are made, not when frames are
    try:
        for _ in clip:
            threads.append(len(os.listdir("/proc/self/task")))
    finally:
        gc.enable()
    assert threads[-1] <= threads[2], "one converter for all frames"


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path):
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(write_video(tmp_path / "clip.mp4", some_frames(9)).read_bytes()[:900])
    empty, mixed = tmp_path / "empty", tmp_path / "mixed"
    empty.mkdir()
    mixed.mkdir()
    for number, side in enumerate((8, 9)):
        Image.new("RGB", (side, side)).save(mixed / f"{number}.png")
    tries = [
        (lambda: VideoFile(text), "not a readable video"),
        (lambda: list(VideoFile(cut)), "not a readable video|damaged video"),
        (lambda: VideoFile(tmp_path / "none.mp4"), "no such file"),
        (lambda: VideoFile("https://example.org/a.mp4"), "addresses are not opened"),
        (lambda: FrameFolder(empty), "no frames"),
        (lambda: list(FrameFolder(mixed)), "must be of one size"),
        (lambda: FrameFolder(text), "is not a folder"),
    ]
    for attempt, words in tries:
        with pytest.raises(ImageError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def boxes_of(labels, tmp_path, monkeypatch):
    """Frame and identity of every box that is written for a video in which a model finds `labels`."""
    masks = torch.nn.functional.one_hot(torch.from_numpy(labels), 4).movedim(-1, 1).float()

    def seen(model, source, *_):
        for frame, mask in zip(source, masks, strict=True):
            area = mask.sum((1, 2))
            still = torch.zeros(4, dtype=torch.bool)
            yield frame, mask, whole((32, 32)), Tracks(torch.zeros(4, 2), area, torch.zeros(4, 2), still)

    monkeypatch.setattr("objecthood.inference.predict_video.seen", seen)
    clip = write_video(tmp_path / "clip.mp4", some_frames(len(labels), 32, 32))
    rows = predict_video(MODEL, clip, tmp_path / "out").files["mot"].read_text().splitlines()
    return [tuple(map(int, row.split(",")[:2])) for row in rows]


def test_the_background_of_boxes_stays_when_an_object_is_larger(tmp_path, monkeypatch):
    labels = np.zeros((4, 32, 32), np.int64)
    labels[0, :8] = labels[1:, 2:] = 1
    assert boxes_of(labels, tmp_path, monkeypatch) == [(1, 2), (2, 2), (3, 2), (4, 2)]


@pytest.mark.parametrize(("clips", "later"), [(True, 5), (False, 2)])
def test_identities_follow_how_a_model_hands_on_its_slots(tmp_path, monkeypatch, clips, later):
    """The slots of `video` go to other objects; those of a recurrent model wait for theirs."""
    monkeypatch.setattr(MODEL, "clips", clips, raising=False)
    labels = np.zeros((MEMORY + 3, 32, 32), np.int64)
    labels[[0, -1], :8] = 1
    assert boxes_of(labels, tmp_path, monkeypatch) == [(1, 2), (MEMORY + 3, later)]


def test_an_object_that_takes_over_a_slot_has_an_identity_of_its_own():
    """As in MOTChallenge; the slots of `video` go to others when their object is gone for long."""
    there, gone = torch.ones(2, 2, dtype=torch.int16), torch.zeros(2, 2, dtype=torch.int16)

    def identities(absent, memory):
        boxes, slots = Boxes(9, memory), ObjectSlots(9)
        frames = [there, there, *[gone] * absent, there, there]
        lines = [line for number, labels in enumerate(frames) for line in boxes.lines(labels, number + 1, 0)]
        held = [slots.update(labels.float()) for labels in frames]
        assert held[0][1].all() and held[-1][1].all(), "the same slot"
        return [int(line.split(",")[1]) for line in lines]

    assert identities(MEMORY, MEMORY) == [2, 2, 2, 2]
    assert identities(MEMORY + 1, MEMORY) == [2, 2, 10, 10]
    assert identities(MEMORY + 1, None) == [2, 2, 2, 2]


def test_bad_videos_among_others_are_skipped_or_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("objecthood.cli.predict.load_model", lambda *_: MODEL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.mp4").write_bytes(b"no video" * 99)
    write_video(tmp_path / "b.mp4", some_frames(2, 32, 32))
    words = ["predict", "a.mp4", "b.mp4", "--weights", "w", "--out", "out"]
    assert main(words) == 1
    assert capsys.readouterr().err.endswith("; add --skip-bad to skip such videos\n")
    assert main([*words, "--skip-bad"]) == 1
    told = capsys.readouterr()
    assert told.err.startswith("skipped: 'a.mp4'") and "1 of 2 videos, 1 skipped" in told.out
    assert (tmp_path / "out" / "b-tracks.csv").is_file()
    assert main([*words, "--animation"]) == 2
    assert "--animation works for images only" in capsys.readouterr().err


def contents(folder):
    """The bytes of all files below a folder, by path."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*.*")
        if file.is_file()
    }


@pytest.mark.parametrize("number, code", [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, PREEMPTED)])
def test_a_stopped_run_leaves_the_results_of_the_one_before(tmp_path, monkeypatch, capsys, number, code):
    clip, write = write_video(tmp_path / "clip.mp4", some_frames(9)), figures.indexed_png
    predict_video(MODEL, clip, tmp_path / "twice")
    before = contents(tmp_path / "twice")

    def stop(labels, path):
        write(labels, path)
        if path.name == "000004.png":
            os.kill(os.getpid(), number)

    monkeypatch.setattr(figures, "indexed_png", stop)
    monkeypatch.setattr("objecthood.cli.predict.load_model", lambda *_: MODEL)
    for out in ("twice", "once"):
        assert main(["predict", str(clip), "--weights", "w", "--out", str(tmp_path / out)]) == code
        assert capsys.readouterr().err == "stopped\n"
    assert contents(tmp_path / "twice") == before and len(before) == 14
    assert [file.name for file in (tmp_path / "once").iterdir()] == ["video-predictions.json"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    clip, out, write = (
        write_video(tmp_path / "clip.mp4", some_frames(9)),
        tmp_path / "out",
        figures.indexed_png,
    )

    def fill(labels, path):
        if path.name == "000004.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(labels, path)

    monkeypatch.setattr(figures, "indexed_png", fill)
    monkeypatch.setattr("objecthood.cli.predict.load_model", lambda *_: MODEL)
    assert main(["predict", str(clip), "--weights", "w", "--out", str(out)]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"error: {out}/clip-overlay.mp4: No space left on device; ")
    assert told.count("\n") == 1
    assert [file.name for file in out.iterdir()] == ["video-predictions.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_error_of_pyav_gets_the_name_of_the_file(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 48, 66, 3), dtype=np.uint8)
    with pytest.raises(OSError) as caught, staged(tmp_path / "clip.mp4"):
        write_video("/dev/full", noise)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "clip.mp4"))
