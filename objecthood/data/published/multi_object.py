"""The multi-object data sets: TFRecord files of CLEVR with masks, Multi-dSprites, Tetrominoes, Objects Room.

Kabra et al. 2019, github.com/google-deepmind/multi_object_datasets, read without TensorFlow. Which set a file
holds is told from its first record: the names of its features and the sizes of its image and masks.

Entities come background first, and a label is the number of an entity: the one whose mask is greatest at a
pixel, the first of equals, so 0 where no mask holds. In Objects Room the first four entities (sky, floor,
two halves of the wall) are all background: `merge_background` makes them label 0 and the objects 1, 2, ...

Integer codes of CLEVR's sizes, materials, shapes and colours begin at 1, with 0 for none. Which code means
"red" was never published. Here code c is entry c - 1 of its one-hot group, and only equality has a meaning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from objecthood.data import clevr_properties
from objecthood.data.published.protobuf import Feature, ProtobufError, parse_example
from objecthood.data.published.tfrecord import Records


class Variant(NamedTuple):
    """The record layout of one published set."""

    name: str
    height: int
    width: int
    channels: int
    num_entities: int
    """Masks per scene, background included."""
    features: frozenset[str]
    """Every other feature, each with a fixed number of values per entity."""
    background_entities: int = 1
    """How many entities, the first ones, are background."""
    entity_last: bool = False
    """Whether masks are stored [height, width, entity] and not [entity, height, width]."""


_CLEVR = frozenset("x y z pixel_coords rotation size material shape color visibility".split())
_SPRITES = frozenset("x y shape color visibility orientation scale".split())
_TETROMINOES = frozenset("x y shape color visibility".split())
# clevr_with_masks.py, multi_dsprites.py, tetrominoes.py and objects_room.py of the release. Objects Room's
# three test sets differ in the number of entities alone.
VARIANTS = (
    Variant("clevr_with_masks", 240, 320, 3, 11, _CLEVR),
    Variant("multi_dsprites_binarized", 64, 64, 1, 4, _SPRITES, entity_last=True),
    Variant("multi_dsprites_colored_on_grayscale", 64, 64, 3, 6, _SPRITES, entity_last=True),
    Variant("multi_dsprites_colored_on_colored", 64, 64, 3, 5, _SPRITES, entity_last=True),
    Variant("tetrominoes", 35, 35, 3, 4, _TETROMINOES),
    *(Variant("objects_room", 64, 64, 3, entities, frozenset(), 4) for entities in (4, 7, 10)),
)
_PER_ENTITY = {"pixel_coords": 3}  # values per entity where not 1; of `color` one, or one per channel


class Scene(TypedDict):
    """One scene, by the contract of `scene.py` without the batch axis."""

    image: Float[Tensor, "3 height width"]
    masks: Int[Tensor, "height width"]
    properties: NotRequired[Float[Tensor, "max_objects 19"]]


class RawScene(NamedTuple):
    """One scene as stored: 8 bits."""

    picture: UInt8[np.ndarray, "height width 3"]
    labels: UInt8[np.ndarray, "height width"]
    properties: Float[np.ndarray, "10 19"] | None
    num_objects: int
    """How many are there by the file's `visibility`, or show at least one pixel where it has none."""


class RawScenes(Iterator[RawScene]):
    """The scenes of a file as stored, in order, one in memory at a time; arguments as for `read`.

    Attributes:
        variant: which of the sets; None before the first scene.
        records: the container: `number` and `offset` of the last record, `share` of the file read, `skipped`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, skip_bad: bool = False, merge_background: bool = False
    ):
        self.records = Records(path, skip_bad=skip_bad)
        self.merge_background = merge_background
        self.variant: Variant | None = None

    def __iter__(self) -> RawScenes:
        return self

    def __next__(self) -> RawScene:
        for record in self.records:
            try:
                return self._decode(parse_example(record))
            except ProtobufError as error:
                self.records.refuse(str(error))
        raise StopIteration

    @property
    def skipped(self) -> list[str]:
        """One line for every record passed over."""
        return [str(error) for error in self.records.skipped]

    def _decode(self, features: dict[str, Feature]) -> RawScene:
        image, mask = (_flat_bytes(features, name) for name in ("image", "mask"))
        variant = _recognise(features, image.size, mask.size)
        if self.variant not in (None, variant):
            raise ProtobufError(f"a scene of {variant.name} in a file of {self.variant.name}")
        self.variant = variant
        picture = image.reshape(variant.height, variant.width, variant.channels)
        labels = _labels(mask, variant)
        num_objects = _count_objects(features, labels, variant)
        if self.merge_background:
            first = np.uint8(variant.background_entities - 1)
            labels = np.maximum(labels, first) - first
        return RawScene(
            np.broadcast_to(picture, (*labels.shape, 3)), labels, _properties(features, variant), num_objects
        )


class Scenes(Iterator[Scene]):
    """What `read` returns."""

    def __init__(self, raw: RawScenes):
        self.raw = raw

    def __iter__(self) -> Scenes:
        return self

    def __next__(self) -> Scene:
        raw = next(self.raw)
        picture = np.ascontiguousarray(raw.picture.transpose(2, 0, 1))
        scene = Scene(
            image=torch.from_numpy(picture).float().div_(255),
            masks=torch.from_numpy(raw.labels.astype(np.int64)),
        )
        if raw.properties is not None:
            scene["properties"] = torch.from_numpy(raw.properties)
        return scene

    @property
    def variant(self) -> str | None:
        """Name of the set; None before the first scene."""
        return self.raw.variant.name if self.raw.variant else None

    @property
    def skipped(self) -> list[str]:
        """One line for every record passed over."""
        return self.raw.skipped


def read(path: str | os.PathLike[str], *, skip_bad: bool = False, merge_background: bool = False) -> Scenes:
    """The scenes of a published file in order, one in memory at a time.

    Args:
        path: a TFRecord file as downloaded.
        skip_bad: pass over damaged records and list them in `skipped` of what is returned. Damage after which
            the next record cannot be found, and an early end of the file, raise all the same.
        merge_background: of Objects Room, make sky, floor and walls label 0 and count objects from 1. Without
            it labels are the numbers of the stored entities. The other sets have one background anyway.

    Returns:
        An iterator of scenes: `image` float32 [3, height, width] in [0, 1] (of the binarised set, its one
        channel thrice), `masks` int64 [height, width], and of CLEVR `properties` float32 [10, 19], row i for
        label i + 1. Its attribute `variant` names the set, `skipped` has a line for each record passed over.

    Raises:
        RecordError: no such file, a damaged one, or a record that is no scene of one of the sets; names file,
            record and byte.

    Example:
        >>> read("nowhere.tfrecords")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        objecthood.data.published.tfrecord.RecordError: 'nowhere.tfrecords': cannot be opened (...)...
    """
    return Scenes(RawScenes(path, skip_bad=skip_bad, merge_background=merge_background))


def _recognise(features: dict[str, Feature], image_size: int, mask_size: int) -> Variant:
    """The set whose record this is."""
    others = features.keys() - {"image", "mask"}
    for variant in VARIANTS:
        pixels = variant.height * variant.width
        sizes = (pixels * variant.channels, pixels * variant.num_entities)
        if (image_size, mask_size) == sizes and others == variant.features:
            _check_sizes(features, variant)
            return variant
    raise ProtobufError(
        f"no scene of a known set: image of {image_size} bytes, masks of {mask_size}, "
        f"other features: {', '.join(sorted(others)) or 'none'}"
    )


def _check_sizes(features: dict[str, Feature], variant: Variant) -> None:
    for name in variant.features:
        values = features[name]
        size = len(values) if isinstance(values, list) else values.size
        per_entity = {_PER_ENTITY.get(name, 1)} | ({variant.channels} if name == "color" else set())
        if size not in {variant.num_entities * count for count in per_entity}:
            raise ProtobufError(f"`{name}` has {size} values for {variant.num_entities} entities")


def _flat_bytes(features: dict[str, Feature], name: str) -> UInt8[np.ndarray, " bytes"]:
    """All bytes of a feature in one piece, however they are cut into entries."""
    values = features.get(name)
    if isinstance(values, list):
        return np.frombuffer(b"".join(values), np.uint8)
    if values is None or values.dtype != np.uint8:
        raise ProtobufError(f"no bytes named `{name}`")
    return np.ascontiguousarray(values).reshape(-1)


def _labels(mask: UInt8[np.ndarray, " bytes"], variant: Variant) -> UInt8[np.ndarray, "height width"]:
    """The entity with the largest mask; ten times faster than `argmax`."""
    if variant.entity_last:
        masks = mask.reshape(variant.height, variant.width, variant.num_entities).transpose(2, 0, 1)
    else:
        masks = mask.reshape(variant.num_entities, variant.height, variant.width)
    labels, greatest = np.zeros(masks.shape[1:], np.uint8), masks[0].copy()
    for entity in range(1, variant.num_entities):
        np.copyto(labels, np.uint8(entity), where=masks[entity] > greatest)
        np.maximum(greatest, masks[entity], out=greatest)
    return labels


def _count_objects(
    features: dict[str, Feature], labels: UInt8[np.ndarray, "height width"], variant: Variant
) -> int:
    if "visibility" in variant.features:
        return int((_numbers(features, "visibility")[1:] > 0).sum())
    return int((np.unique(labels) >= variant.background_entities).sum())


def _numbers(features: dict[str, Feature], name: str) -> np.ndarray:
    values = features[name]
    if isinstance(values, list) or values.dtype == np.uint8:
        raise ProtobufError(f"`{name}` holds bytes, not numbers")
    return values


def _properties(features: dict[str, Feature], variant: Variant) -> Float[np.ndarray, "10 19"] | None:
    """Of CLEVR: one row per entity but the background; zeros where there is no object."""
    if variant.name != "clevr_with_masks":
        return None
    there = _numbers(features, "visibility")[1:] > 0
    places = np.stack([_numbers(features, name)[1:] for name in "xyz"], axis=1)
    rows = np.zeros((clevr_properties.MAX_OBJECTS, clevr_properties.NUM_PROPERTIES), np.float32)
    classes = {name: _codes(features, name)[1:][there] for name in clevr_properties.NAMES}
    rows[there] = clevr_properties.encode(places[there], classes)[: there.sum()]
    return rows


def _codes(features: dict[str, Feature], name: str) -> np.ndarray:
    """Integer codes from 1 as entries from 0; of absent objects anything."""
    codes = _flat_bytes(features, name).astype(int)
    names, visible = clevr_properties.NAMES[name], _numbers(features, "visibility") > 0
    bad = (codes[1:] < 1) | (codes[1:] > len(names))
    if (bad & visible[1:]).any():
        raise ProtobufError(f"`{name}` has codes {codes.tolist()}; 1 to {len(names)} are known")
    return codes - 1
