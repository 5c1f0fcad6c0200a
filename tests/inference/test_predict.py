"""Images in, results out: at the image's own size, readable by others, nothing of the user's touched."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from torch.nn import functional

import objecthood as oh
from objecthood.cli.main import main
from objecthood.data.io.images import ImageError, read_image
from objecthood.inference.masks import coco_masks, enlarge_labels
from objecthood.inference.objects import describe
from objecthood.models import set_predictor
from objecthood.models.placement import whole

# pycocotools 2.0 has not followed NumPy 2's `__array__` signature; its pixels are right all the same.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ALL = {"overlay", "masks", "coco", "animation"}


@pytest.fixture(scope="module")
def model():
    """Untrained: what it sees is noise, which is as good a test of files, and of every slot."""
    torch.manual_seed(0)
    return oh.RECIPES["tetrominoes"].build_model()


def checkered(height: int, width: int, seed: int = 0) -> Image.Image:
    """Coarse random colours."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture
def pictures(tmp_path):
    """A folder with odd images, one of them damaged."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: 40 x 60 is seen as 60 x 40
    checkered(40, 60).save(folder / "turned.jpg", exif=exif)
    checkered(1, 5000, 1).save(folder / "thin.png")
    checkered(50, 30, 2).convert("P").save(folder / "palette.gif")
    checkered(20, 20, 3).convert("L").save(folder / "more" / "grey.png")
    (folder / "damaged.png").write_bytes((folder / "thin.png").read_bytes()[:60])
    return folder


def fingerprints(folder) -> dict[str, str]:
    """Every file below `folder`, by content and time."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() + str(f.stat().st_mtime_ns) for f in files}


def test_odd_images(model, pictures, tmp_path):
    before, seen = fingerprints(pictures), []
    results = oh.predict(
        model,
        pictures,
        tmp_path / "out",
        skip_bad=True,
        animate=True,
        report=lambda *told: seen.append(told),
    )
    assert fingerprints(pictures) == before
    assert seen == [(result, 5) for result in results] and len(results) == 5
    bad = [result for result in results if result.error]
    assert [result.path.name for result in bad] == ["damaged.png"] and not bad[0].files
    for result in results:
        if result.error:
            continue
        assert set(result.files) == ALL
        height, width = read_image(result.path).shape[:2]
        assert result.labels.shape == (height, width) and result.labels.max() < model.num_slots
        with Image.open(result.files["overlay"]) as overlay, Image.open(result.files["masks"]) as masks:
            assert overlay.size == masks.size == (width, height)
            assert (overlay.mode, masks.mode) == ("RGB", "P")
        with Image.open(result.files["animation"]) as animation:
            assert animation.n_frames > 1
    assert (tmp_path / "out" / "more" / "grey-overlay.png").exists()
    assert results[[result.path.name for result in results].index("turned.jpg")].labels.shape == (60, 40)


def test_damaged_image_stops_unless_skipped(model, pictures, tmp_path):
    with pytest.raises(ImageError, match="damaged"):
        oh.predict(model, pictures, tmp_path / "out", animate=False)


def test_coco_masks_are_the_labels(model, pictures, tmp_path):
    results = oh.predict(model, pictures, tmp_path / "out", skip_bad=True, animate=False)
    for result in results:
        if result.error:
            continue
        assert "animation" not in result.files
        with contextlib.redirect_stdout(io.StringIO()):
            data = COCO(result.files["coco"])
        (image,) = data.dataset["images"]
        labels = result.labels
        assert (image["height"], image["width"]) == labels.shape
        annotations = data.loadAnns(data.getAnnIds(image["id"]))
        assert sorted(one["slot"] for one in annotations) == np.unique(labels).tolist()
        for one in annotations:
            mask = data.annToMask(one).astype(bool)
            np.testing.assert_array_equal(mask, labels == one["slot"])
            assert one["area"] == mask.sum() == coco_mask.area(one["segmentation"])
            assert one["bbox"] == coco_mask.toBbox(one["segmentation"]).tolist()


def test_arrays_and_cutouts(model, pictures, tmp_path):
    out = tmp_path / "out"
    (result,) = oh.predict(model, pictures / "turned.jpg", out, animate=False, also=["arrays", "cutouts"])
    with np.load(result.files["arrays"]) as arrays:
        assert set(arrays) == {
            "reconstruction",
            "appearance",
            "masks",
            "slots",
            "attention",
            "labels",
            "image",
        }
        assert np.array_equal(arrays["masks"], result.masks.numpy())
        assert np.array_equal(arrays["labels"], result.labels) and arrays["labels"].shape == (60, 40)
    cuts = {int(file.stem.split("-")[1]): Image.open(file) for file in result.files["cutouts"].iterdir()}
    assert set(cuts) == set(np.unique(result.labels).tolist()) and len(cuts) > 1
    soft = result.placement.restore(result.masks)
    for slot, cut in cuts.items():
        pixels = np.asarray(cut)
        assert cut.mode == "RGBA" and np.array_equal(pixels[..., :3], result.pixels)
        assert np.abs(pixels[..., 3] - 255 * soft[slot].numpy()).max() < 0.51
    # Cut-outs of slots that are no longer seen go; and none is taken for an image to look at.
    stale = result.files["cutouts"] / "slot-99.png"
    stale.write_bytes(b"")
    (again,) = oh.predict(model, pictures / "turned.jpg", out, animate=False, also=["cutouts"])
    assert not stale.exists() and again.files["cutouts"] == result.files["cutouts"]
    with pytest.raises(ImageError, match="there are no input images"):
        oh.predict(model, again.files["cutouts"], out)
    with pytest.raises(ValueError, match=r"`slot` \(=4\) must be from 0 to 3"):
        result.cutout(4)
    with pytest.raises(ValueError, match=r"`also` \(='cutout'\) must be one of arrays, cutouts"):
        oh.predict(model, pictures / "turned.jpg", out, also=["cutout"])


def test_same_stems_do_not_collide(model, tmp_path):
    for place, kind, seed in (("a", "png", 0), ("a", "bmp", 1), ("b", "png", 2), ("c", "PNG", 3)):
        (tmp_path / place).mkdir(exist_ok=True)
        name = "X" if place == "c" else "x"
        checkered(30 + seed, 30, seed).save(tmp_path / place / f"{name}.{kind}")
    paths = [tmp_path / "a", tmp_path / "b" / "x.png", tmp_path / "c" / "X.PNG"]
    results = oh.predict(model, paths, tmp_path / "out", animate=False)
    written = [str(file).lower() for result in results for file in result.files.values()]
    assert len(results) == 4 and len(set(written)) == 12
    assert sorted(result.labels.shape[0] for result in results) == [30, 31, 32, 33]
    # Names stay those of the first time, whatever is asked for later and in whatever order.
    again = oh.predict(model, [*reversed(paths)], tmp_path / "out", animate=False)
    assert {r.path: r.files for r in again} == {r.path: r.files for r in results}


def test_a_image_that_comes_up_twice_is_seen_once(model, tmp_path):
    checkered(30, 30).save(tmp_path / "x.png")
    paths = [tmp_path / "x.png", str(tmp_path / "*.png"), tmp_path]
    assert len(oh.predict(model, paths, tmp_path / "out", animate=False)) == 1


def test_results_do_not_depend_on_company(model, tmp_path):
    for seed in range(5):
        checkered(35, 35, seed).save(tmp_path / f"{seed}.png")
    paths = [tmp_path / f"{seed}.png" for seed in range(5)]
    state = torch.get_rng_state()
    together = oh.predict(model, paths, tmp_path / "one", animate=False)
    alone = oh.predict(model, paths[::-1], tmp_path / "two", batch_size=1, num_slots=4, animate=False)[::-1]
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(together, alone, strict=True):
        assert (a.labels == b.labels).mean() > 0.999


@pytest.mark.parametrize("num_slots", [1, 9])
def test_other_slots_and_iterations(model, tmp_path, num_slots):
    checkered(35, 35).save(tmp_path / "x.png")
    model.train()
    (result,) = oh.predict(model, tmp_path / "x.png", tmp_path / "out", num_slots=num_slots, iterations=2)
    assert model.training and result.labels.max() < num_slots


def test_labels_are_the_argmax_of_enlarged_masks():
    masks = torch.rand(6, 16, 16).softmax(0)
    for size in ((64, 48), (7, 100), (16, 16), (1, 1)):
        large = functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
        assert torch.equal(enlarge_labels(masks, whole(size)).long(), large.argmax(0))


def test_absent_slots_are_left_out():
    annotations = coco_masks(np.full((2, 2), 5, np.int16), "x", np.ones(6))["annotations"]
    assert [one["slot"] for one in annotations] == [5]


def test_folder_of_others_is_not_written_to(model, tmp_path):
    checkered(30, 30).save(tmp_path / "x.png")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "x-masks.png").write_text("mine")
    for out in (theirs, tmp_path):
        with pytest.raises(ValueError, match="holds files that are not predictions"):
            oh.predict(model, tmp_path / "x.png", out)
    assert os.listdir(theirs) == ["x-masks.png"] and sorted(os.listdir(tmp_path)) == ["theirs", "x.png"]


def test_own_results_are_no_images_to_look_at(model, tmp_path):
    checkered(30, 30).save(tmp_path / "x.png")
    for _ in range(2):
        results = oh.predict(model, tmp_path, tmp_path / "out")
        assert [result.path.name for result in results] == ["x.png"]
    checkered(30, 30).save(tmp_path / "out" / "y.png")
    with pytest.raises(ValueError, match="is in the output folder"):
        oh.predict(model, tmp_path / "out" / "y.png", tmp_path / "out")


@pytest.mark.parametrize(
    "settings", [{"num_slots": 0}, {"num_slots": 257}, {"iterations": 0}, {"batch_size": 0}]
)
def test_numbers_out_of_range(model, tmp_path, settings):
    checkered(30, 30).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"`{next(iter(settings))}` \\(="):
        oh.predict(model, tmp_path / "x.png", tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_several_starts(model, tmp_path):
    torch.manual_seed(0)
    guided = oh.RECIPES["tetrominoes-guided"].build_model().eval()
    picture = np.asarray(checkered(35, 35))
    one, two, by_default = (oh.predict(guided, picture, restarts=restarts)[0] for restarts in (1, 8, None))
    assert torch.equal(one.masks, by_default.masks), "a model's own is 1 until a recipe says more"
    assert not torch.equal(one.masks, two.masks)
    guided.restarts = 8
    assert torch.equal(oh.predict(guided, picture)[0].masks, two.masks)
    with pytest.raises(
        ValueError, match=r"`restarts` \(=2\) must be 1 for these weights: their initial slots are fixed"
    ):
        oh.predict(model, picture, restarts=2)


def test_starts_on_the_command_line(capsys):
    def evaluate(*options):
        code = main(["evaluate", *options, "--num-scenes", "2"])
        said = capsys.readouterr()
        return code, said.out + said.err

    code, said = evaluate("tetrominoes-guided", "--restarts", "2")
    assert code == 0 and "of 2 restarts the one of lowest" in " ".join(said.split())
    for weights, restarts, reason in (
        ("tetrominoes", "2", "--restarts (=2) must be 1 for these weights"),
        ("tetrominoes-guided", "0", "--restarts (=0) must be at least 1"),
        ("set-clevr", "2", "set-clevr-like has no --restarts (=2)"),
    ):
        code, said = evaluate(weights, "--restarts", restarts)
        assert code == 2 and reason in " ".join(said.split())


def test_no_image(model, tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        oh.predict(model, tmp_path / "none", tmp_path / "out")
    with pytest.raises(ImageError, match="no image"):
        oh.predict(model, [], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_record_is_json(model, tmp_path):
    checkered(30, 30).save(tmp_path / "x.png")
    oh.predict(model, tmp_path / "x.png", tmp_path / "out", animate=False)
    record = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(record["names"]) == ["x"]


@pytest.fixture(scope="module")
def namer():
    """An untrained set predictor that is sure of the even slots and sees one thing in all of them."""
    torch.manual_seed(0)
    model = set_predictor.fast_clevr(resolution=32)
    read = model.read

    def certain(slots):
        properties = 0.1 * read(slots)
        properties[:, :, [4, 5, 8, 17]] = 0.9  # a small yellow rubber sphere
        properties[:, ::2, 18] += 0.8
        return properties

    model.read = certain
    return model


def test_objects_in_words(namer, pictures, tmp_path):
    before = fingerprints(pictures)
    results = oh.predict(namer, pictures, tmp_path / "out", skip_bad=True, animate=True)
    assert fingerprints(pictures) == before
    for result in results:
        if result.error:
            continue
        assert set(result.files) == {"drawing", "objects", "animation"}
        height, width = read_image(result.path).shape[:2]
        facts = json.loads(result.files["objects"].read_text())
        assert (facts["width"], facts["height"]) == (width, height) and facts["objects"] == result.objects
        assert sorted(thing["slot"] for thing in result.objects) == [0, 2, 4, 6, 8]
        confidences = [thing["confidence"] for thing in result.objects]
        assert confidences == sorted(confidences, reverse=True) and confidences[-1] > 0.5
        for thing in result.objects:
            assert thing["name"] == "small yellow rubber sphere" and thing["color"] == "yellow"
            assert 0 <= thing["pixel"][0] <= width and 0 <= thing["pixel"][1] <= height
        with Image.open(result.files["drawing"]) as drawing:
            assert drawing.width * height == drawing.height * width
            assert min(drawing.size) >= 640 or max(drawing.size) > 1280
    again = oh.predict(namer, pictures, tmp_path / "out", skip_bad=True, animate=False)
    assert [result.path for result in again] == [result.path for result in results]


def test_objects_are_located_by_attention():
    properties, attention = torch.zeros(3, 19), torch.full((3, 8, 16), 0.01)
    properties[1, [3, 5, 7, 10, 18]], attention[1, 6, 3] = 1.0, 0.9
    properties[2, 18], attention[2, :2, 8:] = 0.6, 0.8
    sure, unsure = describe(properties, attention)
    assert (sure["slot"], unsure["slot"]) == (1, 2)
    assert sure["place"] == pytest.approx([3.5 / 16, 6.5 / 8], abs=0.01)
    assert unsure["place"] == pytest.approx([12 / 16, 1 / 8], abs=0.01)
    assert sure["position"] == [-3.0, -3.0, -3.0] and sure["name"] == "large gray rubber cube"


def test_a_image_without_objects(tmp_path):
    model = set_predictor.fast_clevr(resolution=32)
    torch.nn.init.constant_(model.head[-1].bias, -20.0)
    checkered(40, 40).save(tmp_path / "x.png")
    (result,) = oh.predict(model, tmp_path / "x.png", tmp_path / "out", animate=False)
    assert result.objects == [] and result.files["drawing"].exists()


def test_other_models_are_refused(tmp_path, unchecked):
    with pytest.raises(ValueError, match="a Linear cannot predict"):
        oh.predict(torch.nn.Linear(1, 1), tmp_path, tmp_path / "out")


def test_the_command_says_what_it_sees(tmp_path, capsys):
    recipe = oh.RECIPES["set-clevr-like"]
    model = recipe.build_model()
    model.head[-1].bias.data[:] = torch.full((19,), -9.0)
    model.head[-1].bias.data[[0, 1, 3, 6, 7, 11, 18]] = torch.tensor([0.0, 0.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    model.head[-1].weight.data.zero_()
    weights = oh.save(model, recipe, tmp_path / "weights.safetensors")
    checkered(30, 30).save(tmp_path / "x.png")
    out = tmp_path / "out"
    command = ["predict", tmp_path / "x.png", "--weights", weights, "--out", out, "--slots", 3]
    assert main([str(word) for word in [*command, "--no-animation"]]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-7:-3] + said[-1:] == [
        f"{tmp_path / 'x.png'}:",
        *3 * ["  large red metal cube at (0.0, 0.0), confidence 1.00"],
        f"1 of 1 images; written to {out}",
    ]
    assert sorted(os.listdir(out)) == ["predictions.json", "x-objects.json", "x-objects.png"]


LARGE = """
import resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
import objecthood as oh

folder = Path(sys.argv[1])
tiles = np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8)
Image.fromarray(np.kron(tiles, np.ones((100, 100, 1), np.uint8))).save(folder / "large.png", compress_level=1)
resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000, 2_000_000_000))
(result,) = oh.predict("tetrominoes", folder / "large.png", folder / "out", animate=True)
assert result.labels.shape == (7000, 7000) and Image.open(folder / "out/large-masks.png").size == (7000, 7000)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_the_largest_image_in_two_gigabytes(tmp_path, scoreboard):
    """Of 49 million pixels, 50 are allowed; with overlay, masks and animation at its own size."""
    command = [sys.executable, "-c", LARGE, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(oh.__file__).parents[1])
    assert done.returncode == 0, done.stderr
    what = "an image of 7000 x 7000 pixels in two gigabytes of addresses: masks at its own size"
    measured = f"{int(done.stdout) / 1e6:.2f} GB of memory, PyTorch and all"
    scoreboard("Images and videos", what, 1, measured=measured)
