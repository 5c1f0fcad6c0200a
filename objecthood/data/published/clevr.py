"""CLEVR v1.0: images of 3 to 10 objects with their properties, and no masks.

Johnson et al. 2017, cs.stanford.edu/people/jcjohns/clevr. Set prediction reads images whole and squashes
them to a square; object discovery crops them first (Locatello et al. 2020, sections 4.1 and 4.2).

Splits follow the reference (slot_attention/data.py): "train" is CLEVR's train without its first 512 scenes,
which are "validation"; "test" is CLEVR's val. CLEVR's own test has no published properties.
Differences: "first" means in the order of the file; the reference's is the shuffled order of TensorFlow
Datasets. The order within one-hot groups: see `clevr_properties.py`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from objecthood.data import clevr_properties
from objecthood.data.io.cache import Decoded
from objecthood.data.io.images import read_image
from objecthood.data.scene import DecodedDataset, Scenes
from objecthood.data.transforms import CLEVR_COLUMNS, CLEVR_ROWS, as_images, resize_bilinear
from objecthood.runtime.files import parse_json

VALIDATION_SCENES = 512  # num_eval_examples of the reference
HELD_OUT = 0.1  # of CLEVR's train, at most: of a folder that holds a part of it


class ClevrError(ValueError):
    """Not a CLEVR folder, or a damaged one. One line."""


class Clevr(DecodedDataset):
    """The folder as unpacked: `images/train/*.png`, `scenes/CLEVR_train_scenes.json`, and the same for val.

    Args:
        path: the folder `CLEVR_v1.0`.
        resolution: side of the resized images. Bilinear without antialiasing, as in the paper.
        split: "train", "validation" or "test".
        min_objects, max_objects: range of the number of objects in scenes that are kept, inclusive.
        crop: keep rows 29 to 221 and columns 64 to 256 alone, as the reference does for object discovery. The
            numbers were made for images of 240 x 320. CLEVR v1.0 has 320 x 480: the square then lies left
            of the middle, objects outside it stay in `properties`, and scores are not the paper's.

    Attributes:
        paths: the images, in the order of the indices.
        properties: float32 [scenes, 10, 19], see `clevr_properties.py`.

    Raises:
        ClevrError: a file of the layout is missing or damaged, or no scene is left.
        ValueError: unknown split, or a resolution below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int = 128,
        split: str = "train",
        *,
        min_objects: int = 0,
        max_objects: int = clevr_properties.MAX_OBJECTS,
        crop: bool = False,
    ):
        super().__init__(resolution, split)
        if max_objects > clevr_properties.MAX_OBJECTS:
            raise ValueError(f"`max_objects` (={max_objects}) must be at most {clevr_properties.MAX_OBJECTS}")
        self.crop = crop
        source = "val" if split == "test" else "train"
        file = Path(path) / "scenes" / f"CLEVR_{source}_scenes.json"
        scenes = [
            scene
            for scene in _part(_read_scenes(file), split)
            if min_objects <= len(scene["objects"]) <= max_objects
        ]
        if not scenes:
            raise ClevrError(f"'{file}': no scene of {min_objects} to {max_objects} objects in {split}")
        self.paths = [Path(path) / "images" / source / scene["image_filename"] for scene in scenes]
        self.properties = np.stack([_properties(scene, file) for scene in scenes])

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """`image` float32 [batch, 3, resolution, resolution] in [0, 1], `properties` float32 [batch, 10, 19].

        Raises:
            ImageError: an image is missing or damaged.
        """
        properties = torch.from_numpy(self.properties[np.asarray(indices, dtype=np.int64)])
        return {"image": super().batch(indices)["image"], "properties": properties}

    def decode(self, number: int) -> Decoded:
        picture = read_image(self.paths[number])
        if self.crop:
            picture = np.ascontiguousarray(picture[CLEVR_ROWS, CLEVR_COLUMNS])
        image = resize_bilinear(as_images(picture[None]), self.resolution)[0]
        return Decoded(image.mul(255).round_().to(torch.uint8).permute(1, 2, 0).numpy(), None)


def _read_scenes(file: Path) -> list[dict[str, Any]]:
    layout = "name the folder that holds images/ and scenes/"
    try:
        scenes = parse_json(file.read_bytes())["scenes"]
    except OSError as error:
        raise ClevrError(f"'{file}': cannot be read ({error.strerror}); {layout}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ClevrError(f"'{file}': is damaged, or not CLEVR's ({error!r}); download it again") from error
    if not isinstance(scenes, list):
        raise ClevrError(f"'{file}': its scenes are no list but {type(scenes).__name__}; download it again")
    for number, scene in enumerate(scenes):
        if not isinstance(scene, dict) or not {"image_filename", "objects"} <= scene.keys():
            raise ClevrError(f"'{file}': scene {number} has no image_filename or no objects; {layout}")
        name, objects = scene["image_filename"], scene["objects"]
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise ClevrError(f"'{file}': scene {number} has image_filename {name!r:.60}, no name of a file")
        if not isinstance(objects, list) or not all(isinstance(thing, dict) for thing in objects):
            raise ClevrError(f"'{file}': the objects of scene {number} are no list of objects; {layout}")
    return scenes


def _part(scenes: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """CLEVR's train without, or only, its first scenes; CLEVR's val whole."""
    num_first = min(VALIDATION_SCENES, -int(-HELD_OUT * len(scenes) // 1))
    return {"train": scenes[num_first:], "validation": scenes[:num_first], "test": scenes}[split]


def _properties(scene: dict[str, Any], file: Path) -> Float[np.ndarray, "10 19"]:
    objects = scene["objects"]
    try:
        places = np.array([thing["3d_coords"] for thing in objects], np.float32).reshape(len(objects), 3)
        classes = {
            group: np.array([names.index(thing[group]) for thing in objects], int)
            for group, names in clevr_properties.NAMES.items()
        }
        if not np.isfinite(places).all():
            raise ValueError("3d_coords that are no numbers")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        problem = f"an object of {scene['image_filename']!r} is not CLEVR's ({error!r})"
        raise ClevrError(f"'{file}': {problem}; download it again") from error
    return clevr_properties.encode(places, classes)
