"""Photographs with instance or class masks from annotations in COCO's JSON format.

Lin et al. 2014, "Microsoft COCO: Common Objects in Context"; format: cocodataset.org/#format-data. Polygons
are drawn by pycocotools (extra `coco`).

Objects overlap in COCO, and a label map has one label per pixel: the object of fewer pixels is in front, of
equals the later one in the file. Crowds (`iscrowd`) are ignored (-1) where no object lies. With
`overlaps="ignore"`, pixels of several objects, and all of a crowd, are ignored instead. Annotations without a
segmentation are left out.
"""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int16

from objecthood.data.io.cache import Cache, Decoded, resized
from objecthood.data.io.images import ImageWarning, read_image, read_orientation
from objecthood.data.io.rle import read_runs
from objecthood.data.randomness import split_of
from objecthood.data.scene import DecodedDataset
from objecthood.runtime import limits
from objecthood.runtime.files import parse_json

Labels = Literal["instance", "class"]
Orientation = Literal["stored", "upright"]
Overlaps = Literal["front", "ignore"]
IGNORED = -1
MAX_COORDINATE = 100_000
"""Of a polygon, in pixels: pycocotools takes memory for every step along its outline."""


class CocoError(ValueError):
    """Annotations that cannot be read. One line."""


class Coco(DecodedDataset):
    """A folder of images and one JSON file: all of it, or one split of it.

    COCO publishes a file for every split (`instances_train2017.json`, `instances_val2017.json`): read each
    whole, without `split`. For one file that has to serve for training and test, `split` takes a part of it,
    by a hash of `file_name` as the file has it (`randomness.split_of`): about 90 % train, 5 % validation, 5 %
    test. An image keeps its split when others are added, and when it gets another id. Parts share no image.

    Args:
        images: the folder of the images that the file names.
        annotations: the JSON file, as `instances_val2017.json`.
        resolution: side of the resized images. Images bilinear and antialiased, masks nearest.
        labels: "instance": 1, 2, ... in the order of the file; "class": 1, 2, ... in the order of `classes`.
        crop: keep the square in the middle before resizing; without it images are squashed to a square.
        keep_empty: keep images without any annotation but crowds.
        split: "train", "validation" or "test" of the file; None: the whole file.
        overlaps: label of pixels of several objects: "front", the label of the one with fewer pixels, or
            "ignore", -1, as where a crowd lies (the protocol of Seitzer et al. 2023, DINOSAUR).
        orientation: of images that carry an EXIF orientation, which pixels the annotations are of: "stored"
            in the file, as tools see them that ignore EXIF, or "upright". None: upright, with an
            `ImageWarning` where the size in the file does not show whether that is right.

    Attributes:
        paths: the images, in the order of the indices.
        classes: names of the classes, by their id in the file; label c is `classes[c - 1]`.

    Raises:
        CocoError: the file is missing, damaged or not COCO's, or has no image, or none in the split.
        ModuleNotFoundError: pycocotools is not installed; says how.
        ValueError: unknown `labels`, `overlaps` or `split`, or a resolution below 1.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        resolution: int = 224,
        *,
        labels: Labels = "instance",
        crop: bool = True,
        keep_empty: bool = True,
        split: str | None = None,
        overlaps: Overlaps = "front",
        orientation: Orientation | None = None,
    ):
        if overlaps not in get_args(Overlaps):
            raise ValueError(f"`overlaps` (={overlaps!r}) must be one of {', '.join(get_args(Overlaps))}")
        if orientation is not None and orientation not in get_args(Orientation):
            raise ValueError(f"`orientation` (={orientation!r}) must be stored, upright or None")
        if labels not in get_args(Labels):
            raise ValueError(f"`labels` (={labels!r}) must be one of {', '.join(get_args(Labels))}")
        super().__init__(resolution, split)
        _pycocotools()
        self.labels, self.crop, self.orientation = labels, crop, orientation
        self.overlaps = overlaps
        self.name = repr(os.fspath(annotations))
        content = _read(Path(annotations), self.name)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.classes = [category["name"] for category in categories]
        self._class_labels = {category["id"]: label for label, category in enumerate(categories, 1)}
        self._images, self._annotations = _by_image(content, keep_empty, split, self.name)
        self.paths = [Path(images) / entry["file_name"] for entry in self._images]

    def with_labels(self, labels: Labels) -> Coco:
        """The same images with other labels; the file is not read again."""
        other = copy.copy(self)
        other.labels, other._cache = labels, Cache(other.decode)
        return other

    def label_map(self, number: int) -> Int16[np.ndarray, "height width"]:
        """Labels of one image at its full size.

        Raises CocoError where a segmentation makes no sense, or all together exceed `limits.MASK_WORK`.
        """
        entry, annotations = self._images[number], self._annotations[number]
        size = (entry["height"], entry["width"])
        outline = Budget(limits.OUTLINE_PIXELS, "pixels of outline")
        codes = [self._runs(annotation, size, outline) for annotation in annotations]
        work = Budget(limits.MASK_WORK, "pixels to draw")
        labels = np.zeros(size[0] * size[1], np.int16)  # column by column, as the runs
        for annotation, runs in zip(annotations, codes, strict=True):
            if annotation.get("iscrowd"):
                self._paint(labels, runs, IGNORED, work, annotation)
        objects = [
            (annotation, runs)
            for annotation, runs in zip(annotations, codes, strict=True)
            if not annotation.get("iscrowd")
        ]
        # The largest is drawn first. Python's stable sort keeps equals in file order.
        for place in sorted(range(len(objects)), key=lambda place: -int(objects[place][1][1::2].sum())):
            annotation, runs = objects[place]
            label = place + 1 if self.labels == "instance" else self._class_label(annotation)
            self._paint(labels, runs, label, work, annotation)
        if self.overlaps == "ignore":
            self._ignore_overlaps(labels, annotations, codes, work)
        return np.ascontiguousarray(labels.reshape(size, order="F"))

    def _ignore_overlaps(
        self, labels: np.ndarray, annotations: list[dict[str, Any]], codes: list[np.ndarray], work: Budget
    ) -> None:
        """Set pixels of several objects, and of crowds, to `IGNORED`."""
        number = np.zeros(len(labels), np.int16)  # of objects at each pixel
        for annotation, runs in zip(annotations, codes, strict=True):
            where, covered = self._pixels(runs, work, annotation)
            number[where][covered] += 1
            if annotation.get("iscrowd"):
                labels[where][covered] = IGNORED
        labels[number > 1] = IGNORED

    def _paint(
        self, labels: np.ndarray, runs: np.ndarray, label: int, work: Budget, annotation: dict[str, Any]
    ) -> None:
        """Set the true pixels of `runs`."""
        where, covered = self._pixels(runs, work, annotation)
        labels[where][covered] = label

    def _pixels(
        self, runs: np.ndarray, work: Budget, annotation: dict[str, Any]
    ) -> tuple[slice, Bool[np.ndarray, " pixels"]]:
        """The part of an image from the first to the last true pixel of `runs`, and which are true in it."""
        ends = np.cumsum(runs)
        if len(runs) < 2:
            return slice(0), np.zeros(0, bool)
        start, stop = int(runs[0]), int(ends[1::2][-1])
        try:
            work.spend(stop - start)
        except ValueError as error:
            raise self._cannot_be_drawn(annotation, error) from error
        inner = runs[1 : 2 * (len(runs) // 2)]
        return slice(start, stop), np.repeat(np.arange(len(inner)) % 2 == 0, inner)

    def _class_label(self, annotation: dict[str, Any]) -> int:
        if annotation["category_id"] not in self._class_labels:
            raise CocoError(
                f"{self.name}: annotation {_named(annotation['id'])} has unknown class "
                f"{_named(annotation['category_id'])}"
            )
        return self._class_labels[annotation["category_id"]]

    def _runs(self, annotation: dict[str, Any], size: tuple[int, int], outline: Budget) -> np.ndarray:
        """The runs of an object's mask, as `rle.read_runs` gives them."""
        codes = annotation["segmentation"]
        try:
            if not isinstance(codes, list | dict):
                raise ValueError("a segmentation is a list of polygons or a run-length code")
            found, runs = read_runs(
                _from_polygons(codes, size, outline) if isinstance(codes, list) else codes
            )
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise self._cannot_be_drawn(annotation, error) from error
        if found != size:
            shapes = f"{found[1]} x {found[0]}, not {size[1]} x {size[0]}"
            raise CocoError(f"{self.name}: annotation {_named(annotation['id'])} is of {shapes} as its image")
        return runs

    def _cannot_be_drawn(self, annotation: dict[str, Any], error: Exception) -> CocoError:
        return CocoError(
            f"{self.name}: annotation {_named(annotation['id'])} cannot be drawn ({error!s:.200})"
        )

    def decode(self, number: int) -> Decoded:
        image = read_image(self.paths[number], upright=self.orientation != "stored")
        self._check_size(number, (image.shape[0], image.shape[1]))
        return resized(image, self.label_map(number), self.resolution, 1.0 if self.crop else None)

    def _check_size(self, number: int, size: tuple[int, int]) -> None:
        """CocoError where an image is of another size than its annotations; a warning where an orientation
        was noted in it, nobody said what is annotated, and its size does not show it."""
        path, entry = self.paths[number], self._images[number]
        wanted = (entry["height"], entry["width"])
        turned = read_orientation(path) if self.orientation is None or size != wanted else 1
        if size != wanted:
            shapes = f"{size[1]} x {size[0]}, not {wanted[1]} x {wanted[0]}"
            other = "upright" if self.orientation == "stored" else "stored"
            hint = f"; with its EXIF orientation ({turned}): orientation={other!r}"
            hint += f", of a recipe --data coco-{other}"
            if turned < 5 or size != wanted[::-1]:
                hint = "; restore the image, or correct the file"
            raise CocoError(f"'{path}': is {shapes} as {self.name} says{hint}")
        if turned > 1 and (turned < 5 or size[0] == size[1]):
            problem = (
                "has an EXIF orientation, and its annotations may be of the pixels as stored; taken upright; "
                "say which with orientation='stored' or 'upright', of a recipe with --data coco-stored or "
                "coco-upright"
            )
            warnings.warn(ImageWarning(f"'{path}'", problem), stacklevel=2)


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "COCO annotations need pycocotools: pip install 'objecthood[coco]'", name="pycocotools"
        ) from error
    return mask


class Budget:
    """A limit on the work that the annotations of one image may need."""

    def __init__(self, most: int, what: str):
        self.left, self.most, self.what = most, most, what

    def spend(self, amount: float) -> None:
        """ValueError where more is asked for than is left."""
        self.left -= int(amount)
        if self.left < 0:
            raise ValueError(f"more than {self.most} {self.what}, which is the most of one image")


def _from_polygons(polygons: list[Any], size: tuple[int, int], outline: Budget) -> dict[str, Any]:
    """The run-length code of the union of polygons, each a flat list of x and y in pixels."""
    flat = []
    for polygon in polygons:
        if np.array(polygon).dtype.kind not in "iuf":
            raise ValueError("the corners of a polygon are numbers")
        corners = np.array(polygon, float)
        if corners.ndim != 1 or len(corners) < 6 or len(corners) % 2:
            raise ValueError("a polygon needs three corners or more, x and y of each")
        if not (np.abs(corners) <= MAX_COORDINATE).all():
            raise ValueError(f"a polygon has corners beyond {MAX_COORDINATE} pixels")
        closed = np.append(corners, corners[:2]).reshape(-1, 2)
        outline.spend(np.abs(np.diff(closed, axis=0)).max(1).sum())
        flat.append(corners.tolist())
    tools = _pycocotools()
    return tools.merge(tools.frPyObjects(flat, *size))


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        raise CocoError(f"{name}: cannot be read ({error.strerror}); name COCO's JSON file") from error
    except ValueError as error:
        raise CocoError(f"{name}: is damaged ({error!s:.200}); download it again") from error
    for part, fields in _FIELDS.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(
            isinstance(row, dict) and fields.keys() <= row.keys() for row in rows
        ):
            raise CocoError(
                f"{name}: has no list `{part}` of {', '.join(sorted(fields))}; name COCO's JSON file"
            )
        optional = _OPTIONAL.get(part, {})
        for place, row in enumerate(rows):
            for field, (is_right, wanted) in (
                fields | {key: optional[key] for key in optional if key in row}
            ).items():
                if not is_right(row[field]):
                    raise CocoError(
                        f"{name}: `{part}[{place}].{field}` (={row[field]!r:.60}) must be {wanted}; "
                        "correct it"
                    )
    _check_sizes(content, name)
    return content


def _refuse_repeated(keys: Iterable[Any], part: str, what: str, name: str) -> None:
    """Raise CocoError for duplicate ids of images or categories, which make annotations ambiguous, and for an
    image that comes twice, each time with a part of its objects."""
    seen: dict[Any, int] = {}
    for place, key in enumerate(keys):
        if key in seen:
            raise CocoError(
                f"{name}: `{part}` {seen[key]} and {place} have one {what} (={key!r:.60}); {_REMEDY[what]}"
            )
        seen[key] = place


_REMEDY = {
    "id": "number them anew, and what is of them",
    "file_name": "keep one, with the annotations of both",
}


def _check_sizes(content: dict[str, Any], name: str) -> None:
    for entry in content["images"]:
        if entry["height"] * entry["width"] > limits.IMAGE_PIXELS:
            raise CocoError(
                f"{name}: image {_named(entry['id'])} has {entry['width']} x {entry['height']} "
                f"pixels; at most {limits.IMAGE_PIXELS} are allowed"
            )
    categories = content["categories"]
    if len({type(category["id"]) for category in categories}) > 1:
        raise CocoError(f"{name}: ids of `categories` are numbers and texts; make them all numbers")
    if len(categories) > limits.OBJECTS:
        raise CocoError(f"{name}: has {len(categories)} classes; at most {limits.OBJECTS} are allowed")


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_side(value: object) -> bool:
    return type(value) is int and 1 <= value <= limits.IMAGE_PIXELS


def _is_inside(value: object) -> bool:
    """Whether `value` names a file below a folder, as both Windows and other systems would read it."""
    if not isinstance(value, str) or "\0" in value or not PurePosixPath(value).name:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair
        return False
    windows = PureWindowsPath(value)
    return not (value.startswith("/") or windows.drive or windows.root or ".." in windows.parts)


def _named(value: int | str) -> str:
    """An id within a line: long and odd ones are cut and escaped."""
    return f"{value!r:.60}"


_ID = (_is_id, "a whole number or a text")
_FIELDS: dict[str, dict[str, tuple[Callable[[object], bool], str]]] = {
    "images": {
        "id": _ID,
        "file_name": (_is_inside, "the name of a file inside the folder of images"),
        "height": (_is_side, f"a whole number from 1 to {limits.IMAGE_PIXELS}"),
        "width": (_is_side, f"a whole number from 1 to {limits.IMAGE_PIXELS}"),
    },
    "annotations": {"id": _ID, "image_id": _ID, "category_id": _ID},
    "categories": {"id": _ID, "name": (lambda value: isinstance(value, str), "a text")},
}
"""What every entry must have, whether a value of it is right, and what is."""
_OPTIONAL = {"annotations": {"iscrowd": (lambda value: value in (0, 1, None), "0 or 1")}}
"""The same of what an entry may have."""


def _by_image(
    content: dict[str, Any], keep_empty: bool, split: str | None, name: str
) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Images of the split in the order of the file, and the annotations with a segmentation of each."""
    for part in ("images", "categories"):
        _refuse_repeated((row["id"] for row in content[part]), part, "id", name)
    names = (PurePosixPath(row["file_name"]).as_posix() for row in content["images"])
    _refuse_repeated(names, "images", "file_name", name)
    annotations: dict[Any, list[dict[str, Any]]] = {entry["id"]: [] for entry in content["images"]}
    for annotation in content["annotations"]:
        if annotation["image_id"] not in annotations:
            raise CocoError(
                f"{name}: annotation {_named(annotation['id'])} is of unknown image "
                f"{_named(annotation['image_id'])}"
            )
        if annotation.get("segmentation"):
            annotations[annotation["image_id"]].append(annotation)
    for number, own in annotations.items():
        if len(own) > limits.OBJECTS:
            raise CocoError(
                f"{name}: image {_named(number)} has {len(own)} objects; at most {limits.OBJECTS} are allowed"
            )
    entries = [
        entry
        for entry in content["images"]
        if keep_empty or any(not annotation.get("iscrowd") for annotation in annotations[entry["id"]])
    ]
    if not entries:
        raise CocoError(f"{name}: has no image" + ("" if keep_empty else " with an object"))
    members = [entry for entry in entries if split in (None, split_of(str(entry["file_name"])))]
    if not members:
        raise CocoError(
            f"{name}: none of {len(entries)} images falls into the {split} split, a share by a hash of "
            "their names (train 90 %, others 5 %); add images, or read one file for each split"
        )
    return members, [annotations[entry["id"]] for entry in members]
