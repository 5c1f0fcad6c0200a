"""ClevrTex: CLEVR scenes with textured objects and backgrounds, with masks.

Karazija, Laina and Rupprecht 2021, "ClevrTex: A Texture-Rich Benchmark for Unsupervised Multi-Object
Segmentation", www.robots.ox.ac.uk/~vgg/data/clevrtex. Layout, splits, crop and resize are those of the loader
its authors publish (github.com/karazijal/clevrtex-generation, `clevrtex_eval.py`): of every thousand scenes a
folder with images `CLEVRTEX_full_000000.png`, masks `CLEVRTEX_full_000000_flat.png` (palette or grey PNG
whose value is the label: 0 background, 1 to 10 objects) and `.json` descriptions, which are not read here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from objecthood.data.io.cache import Decoded, resized
from objecthood.data.io.images import read_image
from objecthood.data.scene import DecodedDataset

Variant = Literal["full", "pbg", "vbg", "grassbg", "camo", "outd"]
CROP_SHARE = 0.8  # of the shorter side: 192 of 240 pixels
# First and last of the scenes in order, as shares: `splits` of the published loader.
SPLIT_SHARES = {"test": (0.0, 0.1), "validation": (0.1, 0.2), "train": (0.2, 1.0)}


class ClevrTexError(ValueError):
    """Not a ClevrTex folder, or a damaged one. One line."""


class ClevrTex(DecodedDataset):
    """One variant's folder, as unpacked.

    The first tenth of the scenes is "test", the second "validation", the rest "train"; of "outd", which is
    for testing alone, every split is the whole.

    Args:
        path: the folder of the variant (`clevrtex_full`), or the one that holds it.
        resolution: side of the resized images. Images bilinear and antialiased, masks nearest.
        split: "train", "validation" or "test".
        variant: "full", or plain ("pbg"), varied ("vbg") or grass ("grassbg") backgrounds, "camo" (all of one
            texture), or "outd" (unseen shapes and textures).
        crop: keep the square in the middle, 0.8 of the shorter side wide.

    Attributes:
        paths: the images, in the order of the indices.

    Raises:
        ClevrTexError: no such folder, no image, or an image without its mask.
        ValueError: unknown split or variant, or a resolution below 1.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        resolution: int = 128,
        split: str = "train",
        *,
        variant: Variant = "full",
        crop: bool = True,
    ):
        super().__init__(resolution, split)
        if variant not in get_args(Variant):
            raise ValueError(f"`variant` (={variant!r}) must be one of {', '.join(get_args(Variant))}")
        self.crop = crop
        everything = _find_scenes(Path(path), variant)
        first, last = (0.0, 1.0) if variant == "outd" else SPLIT_SHARES[split]
        self.paths = everything[int(first * len(everything)) : int(last * len(everything))]
        if not self.paths:
            raise ClevrTexError(f"'{path}': {len(everything)} scenes are too few for a {split} split")

    def decode(self, number: int) -> Decoded:
        path = self.paths[number]
        picture = read_image(path)
        labels = read_labels(mask_path(path), (picture.shape[0], picture.shape[1]))
        return resized(picture, labels, self.resolution, CROP_SHARE if self.crop else None)


def mask_path(picture: Path) -> Path:
    """The path of the mask of an image."""
    return picture.with_name(f"{picture.stem}_flat.png")


def read_labels(path: Path, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """A mask whose pixel values, palette or grey, are labels.

    Raises:
        ClevrTexError: missing, damaged, not of `size` (height, width), or in colours.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("P", "L") or image.size != size[::-1]:
                kind = f"{image.width} x {image.height} of mode {image.mode}"
                raise ClevrTexError(
                    f"'{path}': {kind}, not labels of {size[1]} x {size[0]}; download it again"
                )
            return np.array(image)
    except ClevrTexError:
        raise
    except Exception as error:  # damaged data makes decoders raise nearly anything
        raise ClevrTexError(f"'{path}': cannot be read ({error}); download it again") from error


def _find_scenes(path: Path, variant: Variant) -> list[Path]:
    """All images by number."""
    folder = path / f"clevrtex_{variant}"
    folder = folder if folder.is_dir() else path
    pattern = re.compile(rf"CLEVRTEX_{variant}_\d{{6}}\.png")
    found = [picture for picture in folder.rglob("*.png") if pattern.fullmatch(picture.name)]
    if not found:
        raise ClevrTexError(
            f"'{path}': no CLEVRTEX_{variant}_000000.png or other below it; name clevrtex_{variant}"
        )
    for picture in found:
        if not mask_path(picture).is_file():
            raise ClevrTexError(f"'{picture}': has no mask {mask_path(picture).name}; download it again")
    return sorted(found, key=lambda picture: picture.name)
