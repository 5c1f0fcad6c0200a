"""A million images in tar files: memory, speed, each image once in an epoch: results/shards.json.

    python runs/experiments/shards.py

The million is one shard of 1,000 generated JPEG files of 256 x 256 pixels, linked 1,000 times: what is
measured is reading, decoding and order, not a disk. Prints what it writes; 2 minutes.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import resource
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Subset

from objecthood.data.generated.sprites import Sprites
from objecthood.data.loader import batches, scene_indices
from objecthood.data.shards import Shards
from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "shards.json"
IN_A_SHARD, SHARDS, SIDE, BATCH = 1000, 1000, 224, 64
READ = 16_000
"""Images that are decoded."""
PROTOCOL = (
    f"{SHARDS} tar files of {IN_A_SHARD} JPEG images of 256 x 256 pixels (links to one file), resized to "
    f"{SIDE} x {SIDE}; one epoch of the training split by batches of {BATCH}, "
    f"shared by 1, 2 and 4 processes; {READ} images decoded"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        writing = multiprocessing.get_context("spawn").Process(target=write_shards, args=(Path(folder),))
        writing.start()  # a process of its own, whose memory does not count
        writing.join()
        before, start = peak_mb(), time.process_time()
        scenes = Shards(folder, SIDE)
        indexed = {
            "cpu_seconds": round(time.process_time() - start, 1),
            "megabytes": round(peak_mb() - before),
        }
        found = {
            "images": {split: len(Shards(folder, SIDE, split)) for split in ("train", "validation", "test")},
            "index": indexed,
            "epochs": {str(count): epoch(scenes, count) for count in (1, 2, 4)},
            "training": training(scenes),
            "workers": {str(workers): images_a_second(scenes, workers) for workers in (0, 1, 2)},
            "protocol": PROTOCOL,
        } | describe()
    print(json.dumps(found, indent=1))
    TARGET.write_text(json.dumps(found, indent=1) + "\n")


def write_shards(folder: Path) -> None:
    pixels = Sprites(resolution=256)[range(IN_A_SHARD)]["image"].mul(255).byte().permute(0, 2, 3, 1).numpy()
    first = folder / "images-0000.tar"
    with tarfile.open(first, "w") as shard:
        for number, image in enumerate(pixels):
            stream = io.BytesIO()
            Image.fromarray(image).save(stream, "JPEG", quality=90)
            member = tarfile.TarInfo(f"{number:04}.jpg")
            member.size = stream.tell()
            shard.addfile(member, io.BytesIO(stream.getvalue()))
    for number in range(1, SHARDS):
        (folder / f"images-{number:04}.tar").hardlink_to(first)


def epoch(scenes: Shards, count: int) -> dict[str, int]:
    """How many images an epoch of `count` processes shows, how many twice, and how many never."""
    shown = np.zeros(len(scenes), np.int64)
    for step in range(len(scenes) // BATCH):
        indices = scene_indices(scenes, BATCH, seed=0, step=step)
        for rank in range(count):
            np.add.at(shown, indices[rank::count], 1)
    return {
        "shown": int(shown.sum()),
        "twice": int((shown > 1).sum()),
        "never": int((shown == 0).sum()),
        "left_for_the_next_batch": len(scenes) % BATCH,
    }


def training(scenes: Shards) -> dict[str, float]:
    """Images a second of the training loop's batches, and what memory grows by between two halves."""
    coming, start = batches(scenes, BATCH, seed=0), time.perf_counter()
    peaks = []
    for _ in range(2):
        for _ in range(READ // BATCH // 2):
            next(coming)
        peaks.append(peak_mb())
    coming.close()  # type: ignore[attr-defined]
    return {
        "images_a_second": round(READ / (time.perf_counter() - start)),
        "peak_megabytes_after_half": round(peaks[0]),
        "peak_megabytes": round(peaks[1]),
    }


def images_a_second(scenes: Shards, workers: int) -> int:
    """Of a `DataLoader` with that many worker processes, each of which starts with an empty cache."""
    some = Subset(scenes, range(100_000, 103_000))
    start = time.perf_counter()
    for _ in DataLoader(some, batch_size=BATCH, num_workers=workers):
        pass
    return round(len(some) / (time.perf_counter() - start))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
