"""Results of one call never overwrite those of another, and are never taken for images to look at."""

import contextlib
import io
import json
import os
import sys
import unicodedata
from pathlib import Path

import afresh
import numpy as np
import pytest
import torch
from PIL import Image

import objecthood as oh
from objecthood.cli.main import main
from objecthood.data.folder import Folder
from objecthood.data.io.images import ImageError, ImageWarning, NoImageError, find_images
from objecthood.inference.predict import stream
from objecthood.inference.predict_video import predict_video
from objecthood.inference.result_folder import ResultFolder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return oh.RECIPES["tetrominoes"].build_model()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, model):
    return str(oh.save(model, oh.RECIPES["tetrominoes"], tmp_path_factory.mktemp("w") / "w.safetensors"))


def plain(path: Path, color="red", size=(20, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def clip(path: Path, count: int) -> Path:
    pytest.importorskip("av", reason="needs the extra [video]")
    from videos import some_frames, write_video

    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(path, some_frames(count, 16, 16))


def test_videos_of_one_name_keep_their_results_apart(model, tmp_path):
    """Of two folders, of two endings, and a folder of frames."""
    clips = [clip(tmp_path / "a" / "clip.mp4", 2), clip(tmp_path / "b" / "clip.mp4", 3)]
    clips.append(clips[0].rename(tmp_path / "a" / "Clip.mov"))
    clips[0] = clip(tmp_path / "a" / "clip.mp4", 4)
    frames = tmp_path / "c" / "clip"
    for number in range(5):
        plain(frames / f"{number}.png")
    lengths = {clips[0]: 4, clips[1]: 3, clips[2]: 2, frames: 5}
    results = [predict_video(model, one, tmp_path / "out") for one in lengths]
    for result, (path, length) in zip(results, lengths.items(), strict=True):
        assert len(list(result.files["masks"].glob("*.png"))) == length
        assert json.loads(result.files["json"].read_text())["video"] == path.as_posix()
    # The same video goes to the same place again, and to no other's.
    again = predict_video(model, clips[1], tmp_path / "out")
    assert again.files == results[1].files


def test_a_video_and_images_named_like_its_frames(model, tmp_path):
    video = clip(tmp_path / "a" / "clip.mp4", 2)
    image = plain(tmp_path / "b" / "clip" / "000001.png", size=(20, 10))
    for sources in ([video, tmp_path / "b"], [tmp_path / "b", video]):
        out = tmp_path / f"out-{sources[0].name}"
        results = oh.predict(model, sources, out, animate=False)
        written = [file for result in results for file in result.files.values()]
        assert len(results) == 3 and len(set(written)) == 9, "frames and image have files of their own"
        (own,) = (result for result in results if result.path == image)
        assert size_of(own.files["masks"]) == (20, 10)


def test_cutouts_leave_the_results_of_others(model, tmp_path):
    plain(tmp_path / "in" / "x.png")
    plain(tmp_path / "in" / "x-cutouts" / "slot-1.png")
    for _ in range(2):
        results = oh.predict(model, tmp_path / "in", tmp_path / "out", animate=False, also=["cutouts"])
    assert all(file.exists() for result in results for file in result.files.values())


def test_two_runs_do_not_write_into_one_folder(model, tmp_path, weights):
    """Neither in this process nor in another; what is refused names who holds it, and writes nothing."""
    pictures = [plain(tmp_path / "in" / f"{number}.png") for number in range(3)]
    first = stream(model, pictures[:2], tmp_path / "out", animate=False)
    next(first)
    with pytest.raises(ValueError, match=f"is written to by process {os.getpid()}; wait for it, or use"):
        oh.predict(model, pictures[2], tmp_path / "out", animate=False)
    command = ["predict", str(pictures[2]), "--weights", weights, "--out", str(tmp_path / "out")]
    code = (
        "import contextlib, sys; from objecthood.cli.main import main\n"
        "with contextlib.redirect_stderr(sys.stdout): print(main(sys.argv[1:]))"
    )
    *said, ended = afresh.run(code, tmp_path, {}, tuple(command)).split()
    assert ended == "1" and f"process {os.getpid()}" in " ".join(said)
    assert len(list(first)) == 1, "the first goes on"
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert sorted(record["names"]) == ["0", "1"]
    # When it ends, or nobody asks for more, the next may write.
    oh.predict(model, pictures[2], tmp_path / "out", animate=False)
    half = stream(model, pictures, tmp_path / "out", animate=False)
    next(half)
    del half
    stream(model, pictures, tmp_path / "out")  # never begun
    oh.predict(model, pictures[0], tmp_path / "out", animate=False)
    assert sorted(json.loads((tmp_path / "out" / "predictions.json").read_text())["names"]) == ["0", "1", "2"]


def test_a_run_that_ended_meanwhile_keeps_its_names(tmp_path):
    """Names are read once the folder is locked, not before."""
    early = ResultFolder(tmp_path / "out")
    other = ResultFolder(tmp_path / "out")
    other.open()
    assert other.choose({tmp_path / "a" / "x.png": Path("x.png")}).popitem()[1] == "x"
    other.close()
    early.open()
    assert early.choose({tmp_path / "b" / "x.png": Path("x.png")}).popitem()[1] == "x-2"
    early.close()


def test_images_in_memory_never_replace_each_other(model, tmp_path, monkeypatch, weights):
    for color in (10, 200):
        results = oh.predict(
            model, [np.full((9, 9, 3), color, np.uint8)] * 2, tmp_path / "out", animate=False
        )
        results[0].save(tmp_path / "out", animate=False)
    names = json.loads((tmp_path / "out" / "predictions.json").read_text())["names"]
    assert len(names) == 6 and len(list((tmp_path / "out").glob("*-overlay.png"))) == 6
    # The same of standard input, beside a file that has the name by which the image goes.
    monkeypatch.chdir(tmp_path)
    plain(tmp_path / "image-1.png")
    for source, side in (("image-1.png", 20), ("-", 30), ("-", 40)):
        content = io.BytesIO()
        Image.new("RGB", (side, side)).save(content, "PNG")
        content.seek(0)
        monkeypatch.setattr(sys, "stdin", type("stdin", (), {"buffer": content}))
        assert main(["predict", source, "--weights", weights, "--out", "o", "--no-animation"]) == 0
    assert sorted(size_of(file)[0] for file in Path("o").glob("*-overlay.png")) == [20, 30, 40]


def test_a_file_keeps_its_results_and_its_name(model, tmp_path):
    path = plain(tmp_path / "x.png")
    (first,) = oh.predict(model, path, tmp_path / "out", animate=False)
    assert first.save(tmp_path / "out", animate=False) == first.files
    (second,) = oh.predict(model, path, tmp_path / "out", animate=False)
    assert second.files == first.files and not second.in_memory


def test_results_are_not_taken_for_images(model, tmp_path, weights):
    """Wherever they lie below a folder or pattern, of this call or another, to look at or to train on."""
    images = tmp_path / "k"
    plain(images / "x.png")
    clip(images / "clip.mp4", 2)
    for out in ("found", "sub/other"):
        with pytest.warns(ImageWarning, match="left out 1 .mp4"):
            results = oh.predict(model, images, images / out, animate=False)
        assert [result.path.name for result in results] == ["x.png"]
    predict_video(model, images / "clip.mp4", images / "videos")
    for name in ("recipe.json", "metrics.jsonl", "latest.png"):
        (images / "runs" / "r").mkdir(parents=True, exist_ok=True)
        (images / "runs" / "r" / name).touch()
    for source in (images, f"{images}/**/*.png", f"{images}/*"):
        with contextlib.suppress(ImageWarning):
            assert [path.name for path in find_images([source])] == ["x.png"]
    with pytest.warns(ImageWarning):
        assert [path.name for path in Folder(images, 16).paths] == ["x.png"]
    with pytest.raises(NoImageError, match="holds results of an earlier run"):
        find_images([images / "found"])
    assert len(find_images([f"{images}/found/*-overlay.png"])) == 1, "asked for by name"
    # Videos that the shell names, results among them.
    clips = sorted(map(str, images.rglob("*.mp4")))
    command = ["predict", *clips, "--weights", weights, "--out", str(images / "videos")]
    assert len(clips) == 2 and main(command) == 0
    assert sorted(path.name for path in (images / "videos").glob("*.mp4")) == ["clip-overlay.mp4"]


def test_a_foreign_predictions_file_hides_nothing(tmp_path):
    plain(tmp_path / "k" / "theirs" / "x.png")
    for content in ('{"predictions": []}', "", "[]", '{"format": "of others"}'):
        (tmp_path / "k" / "theirs" / "predictions.json").write_text(content)
        assert len(find_images([tmp_path / "k"])) == 1


@pytest.mark.parametrize("letter", ["a", "ü", "猫"])
def test_long_names_are_shortened(model, tmp_path, letter):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    stem = letter * ((longest - 4) // len(letter.encode()))
    for number, name in enumerate((f"{stem}.png", f"{stem[:-1]}.png", "z.png")):
        plain(tmp_path / "in" / name, size=(20, 10 + number))
    results = oh.predict(model, tmp_path / "in", tmp_path / "out", animate=True, also=["arrays", "cutouts"])
    written = {file for result in results for file in result.files.values()}
    assert len(results) == 3 and len(written) == 18 and all(file.exists() for file in written)
    assert {size_of(result.files["masks"])[1] for result in results} == {10, 11, 12}
    again = oh.predict(model, tmp_path / "in", tmp_path / "out", animate=False)
    assert [r.files["masks"] for r in again] == [r.files["masks"] for r in results]
    name = max((path.name for path in (tmp_path / "out").iterdir()), key=len)
    assert name.isprintable() and "\ufffd" not in unicodedata.normalize("NFC", name)


def test_what_a_folder_holds_beside_images_is_counted(model, tmp_path, capsys, weights, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    plain(tmp_path / "in" / "x.png")
    for name in ("a.HEIC", "b.heic", "c.jxl", "d.mp4", "notes.txt"):
        (tmp_path / "in" / name).touch()
    command = ["predict", str(tmp_path / "in"), "--weights", weights, "--out", str(tmp_path / "out")]
    assert main([*command, "--no-animation"]) == 0
    said = capsys.readouterr()
    assert "left out 2 .heic, 1 .jxl, 1 .mp4, not read here; for HEIC, pip install" in " ".join(
        said.err.split()
    )
    assert said.err.count("left out") == 1
    assert "1 of 1 images" in said.out
    with pytest.raises(ImageError, match=r"no image among 1 files \(1 .jxl\)"):
        find_images([f"{tmp_path}/in/*.jxl"])
    photo = tmp_path / "in" / "b.heic"
    photo.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert main(["predict", str(photo), *command[2:]]) == 1
    said = capsys.readouterr()
    assert f"{str(photo)!r}: HEIC images need pillow-heif; pip install 'objecthood[heic]'" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("skip", [[], ["--skip-bad"]])
def test_an_empty_folder_among_others_is_left_out(tmp_path, capsys, weights, skip):
    plain(tmp_path / "a" / "x.png")
    (tmp_path / "b").mkdir()
    command = ["predict", str(tmp_path / "a"), str(tmp_path / "b"), "--weights", weights]
    assert main([*command, "--out", str(tmp_path / "out"), "--no-animation", *skip]) == 0
    said = capsys.readouterr()
    assert "1 of 1 images" in said.out and "b': no image among 0 files" in said.err
    assert main(["predict", str(tmp_path / "b"), "--weights", weights, *skip]) == 1


def test_bad_ones_can_be_skipped_and_the_message_says_how(model, tmp_path, capsys, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    plain(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ["predict", str(tmp_path / "in"), "--weights", weights, "--out", str(tmp_path / "out")]
    assert main([*command, "--no-animation"]) == 1
    assert "add --skip-bad" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "none.png"), "--no-animation", "--skip-bad"]) == 1
    said = capsys.readouterr()
    assert "1 of 3 images, 2 skipped" in said.out
    assert said.err.count("skipped: ") == 2 and "none.png': no such file" in said.err
    # Where there is nothing else, there is nothing to go on with.
    assert main(["predict", str(tmp_path / "in" / "broken.png"), "--weights", weights]) == 1
    assert "--skip-bad" not in capsys.readouterr().err
    results = oh.predict(model, [b"no image", tmp_path / "in" / "x.png"], skip_bad=True)
    assert [bool(result.error) for result in results] == [True, False]
    with pytest.raises(ValueError, match="is not one; allowed are"):
        oh.predict(model, [np.zeros((2, 2))], skip_bad=True)


def test_names_that_the_terminal_cannot_write(tmp_path, weights):
    """A terminal of another encoding gets them escaped, and nothing stops."""
    plain(tmp_path / "猫.png")
    (tmp_path / "猫-broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    command = ["predict", str(tmp_path), "--weights", weights, "--skip-bad", "--no-animation"]
    out, error = (
        io.TextIOWrapper(io.BytesIO(), "cp1252", errors, write_through=True)
        for errors in ("strict", "backslashreplace")  # as Python opens stdout and stderr
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        assert main([*command, "--out", str(tmp_path / "ö-猫")]) == 1
    said, told = out.buffer.getvalue(), error.buffer.getvalue()
    assert b"1 of 2 images, 1 skipped" in said and b"\xf6-\\u732b" in said
    assert b"\\u732b-broken.png" in told
