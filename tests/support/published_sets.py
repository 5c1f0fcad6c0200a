"""Small files in the layouts of published data sets: CLEVR, ClevrTex, the multi-object sets and DAVIS."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from records import example, frame, scene
from torch.nn import functional

from objecthood.data import clevr_properties

COUNTS = [3, 7, 10, 6, 4, 5, 3, 8, 6, 9, 3, 4]
"""Objects in each of CLEVR's scenes."""
SIZE = (32, 48)
HEIGHT, WIDTH = 30, 40


def make_object(generator: np.random.Generator) -> dict:
    thing = {group: str(generator.choice(names)) for group, names in clevr_properties.NAMES.items()}
    return thing | {"3d_coords": generator.uniform(-3, 3, 3).tolist(), "rotation": 10.0}


def write_clevr(folder: Path, split: str, counts: list[int], size: tuple[int, int] = SIZE) -> list[dict]:
    generator = np.random.default_rng(len(counts))
    (folder / "images" / split).mkdir(parents=True)
    (folder / "scenes").mkdir(exist_ok=True)
    scenes = []
    for number, count in enumerate(counts):
        name = f"CLEVR_{split}_{number:06}.png"
        pixels = generator.integers(0, 256, (*size, 4), dtype=np.uint8)
        pixels[..., 3] = 255  # the published images have an alpha channel
        Image.fromarray(pixels).save(folder / "images" / split / name)
        objects = [make_object(generator) for _ in range(count)]
        scenes.append({"image_filename": name, "image_index": number, "objects": objects})
    (folder / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"info": {}, "scenes": scenes}))
    return scenes


def labels_of(number: int) -> np.ndarray:
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[5:15, 8:20] = 1
    labels[12:20, 18:30] = 2 + number % 9
    return labels


def write_clevrtex(folder: Path, variant: str = "full", count: int = 20, palette: bool = True) -> Path:
    """As `generate.py` of clevrtex-generation writes: folders by thousands, masks with a palette."""
    for number in range(count):
        place = folder / f"clevrtex_{variant}" / str(number // 8)
        place.mkdir(parents=True, exist_ok=True)
        stem = f"CLEVRTEX_{variant}_{number:06}"
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        Image.fromarray(pixels).save(place / f"{stem}.png")
        mask = Image.fromarray(labels_of(number))
        if palette:
            mask = mask.convert("P")
            mask.putpalette([3 * value % 256 for value in range(768)])
        mask.save(place / f"{stem}_flat.png")
        Image.fromarray(pixels).save(place / f"{stem}_albedo_0001.png")
        (place / f"{stem}.json").write_text("{}")
    return folder


def write_records(path: Path, examples: list[bytes]) -> Path:
    path.write_bytes(gzip.compress(b"".join(frame(data) for data in examples), compresslevel=6))
    return path


def write_multi_object(path: Path, name: str, seeds: range, num_objects: int | None = None) -> Path:
    return write_records(path, [example(scene(name, seed, num_objects)[0]) for seed in seeds])


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = torch.rand(1, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0]
    return (smooth.permute(1, 2, 0) * 255).byte().numpy()


def write_davis(root: Path, names: tuple[str, ...] = ("ant", "bee", "cat"), frames: int = 4) -> Path:
    """Sequences in DAVIS' layout: a textured square moves over a background that a camera moves."""
    for number, name in enumerate(names):
        ground, thing = textured(320, 500, number), textured(80, 80, number + 10)
        for kind in ("JPEGImages", "Annotations"):
            (root / kind / "480p" / name).mkdir(parents=True)
        for now in range(frames):
            frame = ground[20 + now : 260 + now, 30 + 2 * now : 458 + 2 * now].copy()
            mask = np.zeros((240, 428), np.uint8)
            place = slice(80, 160), slice(150 + 6 * now, 230 + 6 * now)
            frame[place], mask[place] = thing, 255
            Image.fromarray(frame).save(root / "JPEGImages" / "480p" / name / f"{now:05d}.jpg", quality=95)
            Image.fromarray(mask).save(root / "Annotations" / "480p" / name / f"{now:05d}.png")
    return root
