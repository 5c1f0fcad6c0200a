"""COCO-format annotations: label maps, crowds, overlaps, squares; equal to pycocotools on 128 photographs."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("pycocotools", reason="needs the extra `coco`")

from pycocotools import mask as tools
from timing import cpu_seconds

from objecthood.data.io.images import ImageError, ImageWarning
from objecthood.data.published import coco
from objecthood.data.published.coco import Coco, CocoError
from objecthood.data.randomness import SPLITS
from objecthood.data.scene import Dataset


def rectangle(left: float, top: float, right: float, bottom: float) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def entry(number: int, segmentation, image: int = 1, category: int = 7, crowd: int = 0) -> dict:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "iscrowd": crowd,
    }


CROWD = {"size": [20, 30], "counts": [0, 200, 400]}  # the first ten columns


def write(folder: Path, annotations: list[dict], pictures: int = 1) -> tuple[Path, Path]:
    images = []
    for number in range(1, pictures + 1):
        Image.new("RGB", (30, 20), (number, 100, 200)).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 30, "height": 20})
    categories = [{"id": 18, "name": "dog"}, {"id": 7, "name": "cat"}]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return folder, file


def test_smaller_objects_lie_in_front_whatever_their_order(tmp_path):
    large, small = [rectangle(0, 0, 20, 20)], [rectangle(5, 5, 10, 10)]
    for shapes, inner, outer in (([large, small], 2, 1), ([small, large], 1, 2)):
        labels = Coco(*write(tmp_path, [entry(i, s) for i, s in enumerate(shapes)])).label_map(0)
        assert labels[7, 7] == inner
        assert labels[15, 15] == outer
        assert labels[7, 25] == 0


def test_equal_objects_and_crowds(tmp_path):
    same = [rectangle(5, 5, 15, 15)]
    labels = Coco(*write(tmp_path, [entry(0, same), entry(1, CROWD, crowd=1), entry(2, same)])).label_map(0)
    assert labels[7, 7] == 2  # the later of equals; crowds take no number and lie behind
    assert labels[7, 2] == -1
    assert labels[18, 9] == -1
    assert labels[18, 12] == 0


def test_overlaps_and_crowds_can_be_ignored(tmp_path):
    boxes = [rectangle(0, 0, 10, 10)], [rectangle(5, 0, 15, 10)], [rectangle(20, 0, 25, 5)]
    entries = [*(entry(i, box, category=7) for i, box in enumerate(boxes)), entry(3, CROWD, crowd=1)]
    for labels, wanted in (("instance", (1, 2, 3)), ("class", (1, 1, 1))):
        front, ignored = (
            Coco(*write(tmp_path, entries), labels=labels, overlaps=kind).label_map(0)
            for kind in ("front", "ignore")
        )
        only = Coco(*write(tmp_path, entries[:3]), labels=labels, overlaps="ignore").label_map(0)
        assert (only[:10, 5:10] == -1).all(), "two objects"
        assert (only[3, 2], only[3, 12], only[3, 22], only[15, 15]) == (*wanted, 0)
        assert (ignored[only == -1] == -1).all() and (front[only == -1] > 0).all()
        crowd = Coco(*write(tmp_path, entries[3:])).label_map(0) == -1
        assert (ignored[crowd] == -1).all() and (front[crowd] > 0).any()
        alone = ~crowd & (only != -1)
        assert (ignored[alone] == front[alone]).all()


def test_classes(tmp_path):
    boxes = [rectangle(0, 0, 5, 5)], [rectangle(10, 10, 15, 15)], [rectangle(20, 0, 25, 5)]
    annotations = [
        entry(i, box, category=c) for i, (box, c) in enumerate(zip(boxes, (18, 7, 18), strict=True))
    ]
    dataset = Coco(*write(tmp_path, annotations), labels="class")
    assert dataset.classes == ["cat", "dog"]
    labels = dataset.label_map(0)
    assert (labels[2, 2], labels[12, 12], labels[2, 22]) == (2, 1, 2)


def test_several_polygons_and_codes_are_one_object(tmp_path):
    two = [rectangle(0, 0, 5, 5), rectangle(20, 10, 25, 15)]
    text = tools.encode(np.asfortranarray(np.eye(20, 30, dtype=np.uint8)))
    code = {"size": [20, 30], "counts": text["counts"].decode()}
    labels = Coco(*write(tmp_path, [entry(0, two), entry(1, code), entry(2, [])])).label_map(0)
    assert (labels[2, 3], labels[12, 22], labels[9, 9]) == (1, 1, 2)
    assert labels.max() == 2


def test_a_batch_and_its_squares(tmp_path):
    paths = write(tmp_path, [entry(0, [rectangle(0, 0, 5, 20)]), entry(1, [rectangle(5, 0, 25, 20)])], 2)
    dataset = Coco(*paths, resolution=10)
    assert isinstance(dataset, Dataset)
    assert len(dataset) == 2
    batch = dataset[[0, 1]]
    assert (batch["image"].shape, batch["image"].dtype) == ((2, 3, 10, 10), torch.float32)
    assert (batch["masks"].shape, batch["masks"].dtype) == ((2, 10, 10), torch.int64)
    assert batch["masks"].unique().tolist() == [0, 2]  # the square in the middle: columns 5 to 25
    assert batch["masks"][0].eq(2).all()
    assert Coco(*paths, resolution=10, crop=False)[[0]]["masks"].unique().tolist() == [0, 1, 2]
    assert len(Coco(*paths, keep_empty=False)) == 1


def test_equal_to_pycocotools(shared_data):
    folder = shared_data / "coco128"
    dataset = Coco(folder / "images", folder / "instances.json", crop=False)
    content = json.loads((folder / "instances.json").read_text())
    assert (len(dataset), len(dataset.classes)) == (128, 80)
    for number, picture in enumerate(content["images"]):
        size = (picture["height"], picture["width"])
        masks = []
        for annotation in content["annotations"]:
            if annotation["image_id"] == picture["id"]:
                code = tools.merge(tools.frPyObjects(annotation["segmentation"], *size))
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # pycocotools 2.0.11 under NumPy 2
                    masks.append(tools.decode(code).astype(bool))
        labels = dataset.label_map(number)
        assert labels.shape == size
        covered = np.zeros(size, bool)
        for label, mask in enumerate(masks, 1):
            covered |= mask
            # A pixel of the object is its own, or of one that is not larger.
            owners = np.unique(labels[mask])
            assert all(owner == label or masks[owner - 1].sum() <= mask.sum() for owner in owners)
        np.testing.assert_array_equal(labels > 0, covered)


def test_batches_of_photographs(shared_data):
    folder = shared_data / "coco128"
    batch = Coco(folder / "images", folder / "instances.json", 64, labels="class")[range(0, 128, 8)]
    assert batch["image"].shape == (16, 3, 64, 64)
    assert 0 <= batch["masks"].min() <= batch["masks"].max() <= 80


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        (entry(4, [[1, 2, 3, 4]]), "annotation 4 cannot be drawn .a polygon needs three corners"),
        (entry(4, [[0, 0, 1e9, 0, 5, 5]]), "corners beyond 100000 pixels"),
        (entry(4, [["1", "2", "9", "2", "9", "8"]]), "the corners of a polygon are numbers"),
        (entry(4, [rectangle(0, 0, 5, 5)], crowd="0"), r"annotations\[0\].iscrowd` .='0'. must be 0 or 1"),
        (entry(4, [[0, 0, float("nan"), 0, 5, 5]]), "corners beyond 100000 pixels"),
        (entry(4, {"size": [20, 30], "counts": [5]}), "must add up to 20 x 30 pixels"),
        (entry(4, {"size": [30, 20], "counts": [600]}), "annotation 4 is of 20 x 30, not 30 x 20"),
        (entry(4, {"size": [20, 30]}), "annotation 4 cannot be drawn"),
        (entry(4, [rectangle(0, 0, 5, 5)], category=3), "annotation 4 has unknown class 3"),
    ],
)
def test_annotations_that_make_no_sense(tmp_path, annotation, problem):
    with pytest.raises(CocoError, match=problem):
        Coco(*write(tmp_path, [annotation]), labels="class")[[0]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read"),
        ("{", "is damaged"),
        ("[]", "has no list `images`"),
        ('{"images": [{"id": 1}]}', "has no list `images` of file_name, height, id, width"),
        ('{"images": [], "annotations": [], "categories": []}', "has no image"),
        (
            '{"images": [], "annotations": [{"id": 1, "image_id": 2, "category_id": 3}], "categories": []}',
            "annotation 1 is of unknown image 2",
        ),
    ],
)
def test_files_that_are_not_cocos(tmp_path, content, problem):
    folder, file = write(tmp_path, [])
    file.unlink() if content is None else file.write_text(content)
    with pytest.raises(CocoError, match=problem) as caught:
        Coco(folder, file)
    assert str(file) in str(caught.value)


def test_user_images_missing_or_of_another_size(tmp_path):
    paths = write(tmp_path, [])
    Image.new("RGB", (31, 20)).save(tmp_path / "1.png")
    with pytest.raises(CocoError, match=r"1.png': is 31 x 20, not 30 x 20 as"):
        Coco(*paths)[[0]]
    (tmp_path / "1.png").unlink()
    with pytest.raises(ImageError, match=r"1\.png"):
        Coco(*paths)[[0]]


HUGE = 10**400


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("images", "height", 10**7), ("images", "height", -1), ("images", "width", 0),
        ("images", "width", "30"),
        ("images", "width", True), ("images", "height", 20.0), ("images", "height", None),
        ("images", "width", HUGE), ("images", "id", [1]), ("images", "id", {}), ("images", "id", None),
        ("images", "id", 1.5), ("images", "file_name", 7), ("images", "file_name", ""),
        ("images", "file_name", "../1.png"), ("images", "file_name", "/etc/hostname"),
        ("images", "file_name", "a/../../1.png"), ("images", "file_name", "..\\1.png"),
        ("images", "file_name", "C:\\1.png"), ("images", "file_name", "a\0b.png"),
        ("images", "file_name", "."),
        ("images", "file_name", "\ud800.png"), ("images", "file_name", ["1.png"]),
        ("annotations", "id", {"a": 1}), ("annotations", "image_id", [1]), ("annotations", "image_id", None),
        ("annotations", "category_id", []), ("categories", "id", [7]), ("categories", "id", False),
        ("categories", "id", "7"), ("categories", "name", 3), ("categories", "name", None),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_or_size(tmp_path, part, field, value):
    """Refused when the file is read, with the place; nothing outside the folder is opened."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "1.png")
    folder, file = write(tmp_path / "images", [entry(4, [rectangle(0, 0, 5, 5)])])
    content = json.loads(file.read_text())
    content[part][0][field] = value
    file.write_text(json.dumps(content))
    with pytest.raises(CocoError) as caught:
        Coco(folder, file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value) and len(str(caught.value)) < 500
    assert part in str(caught.value) or "pixels" in str(caught.value)


def test_names_below_the_folder_are_read(tmp_path):
    """COCO's own file names may hold folders; ids may be texts."""
    (tmp_path / "val..2017").mkdir()
    folder, file = write(tmp_path, [entry(4, [rectangle(0, 0, 5, 5)])])
    (tmp_path / "1.png").rename(tmp_path / "val..2017" / "..1.png")
    content = json.loads(file.read_text())
    content["images"][0] |= {"file_name": "val..2017/..1.png", "id": "one"}
    content["annotations"][0] |= {"id": "a\nb", "image_id": "one", "category_id": "cat"}
    content["categories"] = [{"id": "cat", "name": "cat"}]
    file.write_text(json.dumps(content))
    assert Coco(folder, file, labels="class", crop=False)[[0]]["masks"].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("segmentations", "problem"),
    [
        ([[[0, 0, 90_000, 0, 90_000, 90_000, 0, 90_000]]] * 200, "more than 20000000 pixels of outline"),
        ([[[0, 0, HUGE, 0, 5, 5]]], "a number of 401 digits"),
        ([[["a", 0, 1, 0, 5, 5]]], "cannot be drawn"),
        ([[{"x": 1}]], "cannot be drawn"),
        (["text"], "cannot be drawn"),
        ([7], "cannot be drawn"),
        ([{"size": [20, 30], "counts": [HUGE]}], "a number of 401 digits"),
        ([[[0, 0, 10**17, 0, 5, 5]]], "cannot be drawn"),
        ([{"size": [20, 30], "counts": [10**17]}], "cannot be drawn"),
        ([{"size": ["20", 30], "counts": [600]}], "cannot be drawn"),
        ([{"size": [20, 30], "counts": {"a": 1}}], "cannot be drawn"),
        ([{"size": [20, 30], "counts": [0, 600]}] * 3, "annotation 2 cannot be drawn .more than 1500 pixels"),
    ],
)
def test_segmentations_that_ask_for_too_much(tmp_path, monkeypatch, segmentations, problem):
    monkeypatch.setattr(coco.limits, "MASK_WORK", 1500)
    paths = write(tmp_path, [entry(number, one) for number, one in enumerate(segmentations)])

    def refused() -> None:
        with pytest.raises(CocoError, match=problem) as caught:
            Coco(*paths)[[0]]
        assert "\n" not in str(caught.value)

    assert cpu_seconds(refused, limit=1) < 1


def test_more_objects_than_labels(tmp_path, monkeypatch):
    assert np.iinfo(np.int16).max == coco.limits.OBJECTS
    monkeypatch.setattr(coco.limits, "OBJECTS", 50)
    paths = write(tmp_path, [entry(number, [rectangle(0, 0, 5, 5)]) for number in range(51)])
    with pytest.raises(CocoError, match="image 1 has 51 objects; at most 50 are allowed"):
        Coco(*paths)
    content = json.loads(paths[1].read_text())
    content["annotations"] = content["annotations"][1:]
    paths[1].write_text(json.dumps(content))
    assert Coco(*paths).label_map(0).max() == 50
    content["categories"] = [{"id": number, "name": "x"} for number in range(51)]
    paths[1].write_text(json.dumps(content))
    with pytest.raises(CocoError, match="has 51 classes"):
        Coco(*paths)


def test_masks_of_many_objects_are_not_held_at_once(tmp_path, monkeypatch):
    """The size in the file is compared with the image's before anything is drawn."""
    paths = write(tmp_path, [entry(number, [rectangle(0, 0, 5, 5)]) for number in range(200)])
    content = json.loads(paths[1].read_text())
    content["images"][0] |= {"width": 5000, "height": 5000}
    paths[1].write_text(json.dumps(content))

    with monkeypatch.context() as patch, pytest.raises(CocoError, match="is 30 x 20, not 5000 x 5000 as"):
        patch.setattr(Coco, "label_map", lambda *_: pytest.fail("drawn before the sizes were compared"))
        Coco(*paths)[[0]]

    assert cpu_seconds(lambda: Coco(*paths).label_map(0), limit=2.5) < 2.5
    assert Coco(*paths).label_map(0).max() == 200


def test_without_pycocotools(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ModuleNotFoundError) as caught:
        Coco(*write(tmp_path, []))
    assert str(caught.value) == "COCO annotations need pycocotools: pip install 'objecthood[coco]'"


def test_bad_arguments(tmp_path, unchecked):
    paths = write(tmp_path, [])
    with pytest.raises(ValueError, match="`labels`"):
        Coco(*paths, labels="both")
    with pytest.raises(ValueError, match=r"`overlaps` \(='keep'\) must be one of front, ignore"):
        Coco(*paths, overlaps="keep")
    with pytest.raises(ValueError, match="`resolution`"):
        Coco(*paths, resolution=0)
    assert coco.IGNORED == -1


def test_parts_of_one_file(tmp_path):
    """By name, not by id or place: the parts are the file, and stay when images are added or renumbered."""
    paths = write(tmp_path, [], pictures=120)
    parts = {split: [path.name for path in Coco(*paths, split=split).paths] for split in SPLITS}
    assert sorted(name for part in parts.values() for name in part) == sorted(
        path.name for path in Coco(*paths).paths
    )
    assert "6.png" in parts["test"] and "8.png" in parts["validation"] and len(parts["train"]) > 90
    content = json.loads(paths[1].read_text())
    for number, image in enumerate(content["images"]):
        image["id"] = 1000 + number
    content["images"] = content["images"][:60][::-1]
    paths[1].write_text(json.dumps(content))
    for split in SPLITS:
        fewer = [path.name for path in Coco(*paths, split=split).paths]
        assert fewer == [name for name in parts[split] if int(Path(name).stem) <= 60][::-1]


def test_a_part_that_is_empty_or_unknown(tmp_path):
    paths = write(tmp_path, [], pictures=3)
    assert len(Coco(*paths, split="train")) == 3
    with pytest.raises(CocoError, match="none of 3 images falls into the test split.*add images"):
        Coco(*paths, split="test")
    with pytest.raises(ValueError, match="`split` .='val'. must be one of train, validation, test"):
        Coco(*paths, split="val")


@pytest.mark.parametrize("part, field", [("images", "id"), ("categories", "id"), ("images", "file_name")])
def test_ids_and_files_come_once(tmp_path, part, field):
    """Two images of one id would each get the annotations of both; two of one file, each a part of them."""
    folder, file = write(tmp_path, [entry(1, [rectangle(0, 0, 5, 5)])], 3)
    content = json.loads(file.read_text())
    value = content[part][0][field]
    content[part][-1][field] = f"./{value}" if field == "file_name" else value
    file.write_text(json.dumps(content))
    last = len(content[part]) - 1
    with pytest.raises(CocoError, match=f"`{part}` 0 and {last} have one {field} .={value!r}.;"):
        Coco(folder, file)


def corner(size: tuple[int, int], orientation: int, path: Path) -> None:
    """An image whose corner is white as it is stored, up to 10 pixels along and 5 down, and that says how it
    is turned."""
    image = Image.new("RGB", size)
    image.paste("white", (0, 0, 10, 5))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)


def iou(dataset: Coco) -> float:
    """Of what is white and what is annotated."""
    batch = dataset[[0]]
    white, object_ = batch["image"][0].mean(0) > 0.5, batch["masks"][0] > 0
    return ((white & object_).sum() / (white | object_).sum()).item()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_orientation_is_that_of_the_annotations(tmp_path, orientation, suffix):
    """Annotated as stored, the white corner is found where the annotation is, whatever EXIF says."""
    folder, file = write(tmp_path, [entry(1, [rectangle(0, 0, 10, 5)])])
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = f"turned.{suffix}"
    file.write_text(json.dumps(content))
    corner((30, 20), orientation, tmp_path / f"turned.{suffix}")
    settings = {"resolution": 20, "crop": False}
    assert iou(Coco(folder, file, **settings, orientation="stored")) > 0.8
    if orientation > 4:  # the size tells
        with pytest.raises(CocoError, match=rf"EXIF orientation \({orientation}\): orientation='stored'"):
            Coco(folder, file, **settings)[[0]]
    else:
        with pytest.warns(ImageWarning, match="has an EXIF orientation, and its annotations may be"):
            assert iou(Coco(folder, file, **settings)) < 0.2
        assert iou(Coco(folder, file, **settings, orientation="upright")) < 0.2


def test_images_annotated_upright(tmp_path):
    folder, file = write(tmp_path, [entry(1, [rectangle(15, 0, 20, 10)])])
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": 20, "height": 30}
    file.write_text(json.dumps(content))
    corner((30, 20), 6, tmp_path / "1.png")  # a quarter with the clock: the corner goes to the upper right
    assert iou(Coco(folder, file, 30, crop=False)) > 0.8, "of another size when turned: no doubt, no warning"
    with pytest.raises(CocoError, match=r"is 30 x 20, not 20 x 30 as .*orientation='upright'"):
        Coco(folder, file, 30, crop=False, orientation="stored")[[0]]
    corner((25, 20), 6, tmp_path / "1.png")
    with pytest.raises(
        CocoError, match=r"is 20 x 25, not 20 x 30 as .*instances.json' says; restore the image"
    ):
        Coco(folder, file, 30, crop=False)[[0]]


def test_square_images_in_doubt(tmp_path):
    folder, file = write(tmp_path, [])
    content = json.loads(file.read_text())
    content["images"][0] |= {"width": 20, "height": 20}
    file.write_text(json.dumps(content))
    corner((20, 20), 6, tmp_path / "1.png")
    with pytest.warns(ImageWarning, match="EXIF"):
        Coco(folder, file)[[0]]
