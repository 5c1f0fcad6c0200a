"""The multi-object data sets converted to memory-mapped arrays with random access.

A published file is one compressed stream: its last scene is reached through all others. `convert` reads it
once into a folder of plain .npy arrays and `manifest.json`, `Packed` maps those into memory.

Splits are ranges of the file's order. Locatello et al. 2020 train on the first 70,000 scenes of CLEVR and the
first 60,000 of the other sets, and test on the 320 after them
(github.com/google-research/google-research/issues/595).
Differences: whether the paper counted 320 before or after leaving out scenes by number of objects is not
known; here it is after.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Integer

from objecthood.data.published.multi_object import RawScene, RawScenes
from objecthood.data.scene import Dataset, Scenes, check_selection
from objecthood.data.transforms import CLEVR_COLUMNS, CLEVR_ROWS, as_images, resize_bilinear, resize_nearest
from objecthood.runtime.files import check_length, parse_json, real_folder, sha256_of
from objecthood.runtime.signals import nobody_else

FORMAT = "objecthood packed scenes 1"
TEST_SCENES = 320
TRAIN_SCENES = {"clevr_with_masks": 70_000}
OTHER_TRAIN_SCENES = 60_000
TRAIN_SHARE = 0.9  # at most: of a file that holds fewer scenes than the published one
_ARRAYS = {
    "images": (np.uint8, 4),
    "masks": (np.uint8, 3),
    "num_objects": (np.uint8, 1),
    "properties": (np.float32, 3),
}
_FACTS = ("variant", "num_scenes", "crop", "resolution")
_PLACEHOLDER = 2**40  # number of scenes in a header until their number is known


class PackError(ValueError):
    """A packed folder that cannot be written or read. One line."""


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    crop: bool = False,
    resolution: int | None = None,
    merge_background: bool = True,
    max_scenes: int | None = None,
    skip_bad: bool = False,
    progress: Callable[[int, float], None] = lambda scenes, share: None,
) -> dict[str, Any]:
    """Pack a published TFRecord file into a new folder, in one pass and in little memory.

    All is written into `OUT.partial`, which takes its final name when it is whole: after a kill, run the same
    command again and it begins anew. Full CLEVR takes 31 GB as stored, 6.6 GB with `crop` and resolution 128.

    Args:
        path: the file as downloaded.
        out: the folder to make.
        crop: of CLEVR, keep the paper's square alone (rows 29 to 221, columns 64 to 256).
        resolution: resize to this many pixels a side, as TensorFlow does (see `transforms.py`), rounded to 8
            bits; without it images stay as they are, and `Packed` can resize them exactly.
        merge_background: as for `multi_object.read`; of use for Objects Room alone.
        max_scenes: stop after so many.
        skip_bad: pass over damaged records; the manifest lists them.
        progress: called after every scene with the number of scenes and the share of the file read, 0 to 1.

    Returns:
        The manifest: variant, num_scenes, crop, resolution, merge_background, source (name, bytes, sha256),
        skipped.

    Raises:
        RecordError: see `multi_object.read`.
        PackError: `out` exists, no scene was good, or a crop of what is not CLEVR.
        OSError: the disk is full, or not to be written.
    """
    source, out, partial = Path(path), Path(out), Path(f"{os.fspath(out)}.partial")
    for name, value in (("resolution", resolution), ("max_scenes", max_scenes)):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` (={value}) must be at least 1")
    if os.path.lexists(out):
        raise PackError(f"'{out}': exists; remove it or name another folder")
    scenes = RawScenes(path, skip_bad=skip_bad, merge_background=merge_background)
    real_folder(partial)
    with (
        nobody_else(partial, "written to", "wait for it, or name another folder"),
        _emptied_on_error(partial),
    ):
        _empty(partial)  # of what a run that was killed left
        count = _write_arrays(scenes, partial, crop, resolution, max_scenes, progress)
        manifest = {
            "format": FORMAT,
            "variant": scenes.variant.name if scenes.variant else "",
            "num_scenes": count,
            "crop": crop,
            "resolution": resolution,
            "merge_background": merge_background,
            "source": {"name": source.name, "bytes": source.stat().st_size, "sha256": sha256_of(source)},
            "skipped": scenes.skipped,
        }
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
        partial.rename(out)
    return manifest


class Packed(Dataset):
    """A packed folder as a data set; images stay on disk until they are asked for.

    Splits, by the order of the file: "train" is what lies in its first 70,000 scenes (CLEVR; 60,000 of the
    others), but in at most 90 % of all; "test" the next 320 that pass the filter, but at most half of what is
    left; "validation" all after those.

    Args:
        path: what `convert` wrote.
        split: "train", "validation" or "test".
        resolution: side of the images that come out; None: as packed. Bilinear without antialiasing, as in
            the paper; masks nearest.
        crop: of CLEVR, the paper's square alone; nothing happens where the pack is cropped already.
        min_objects, max_objects: leave out scenes with fewer or more objects, both ends included.

    Attributes:
        manifest: what `convert` returned.
        scenes: numbers of the scenes of this split in the pack.

    Raises:
        PackError: no such folder, damage, a pack of another version, or no scene in the split.
        ValueError: unknown split, bad resolution, or a crop of what is not CLEVR.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        resolution: int | None = None,
        crop: bool = False,
        min_objects: int = 0,
        max_objects: int | None = None,
    ):
        check_selection(resolution, split)
        self._path = Path(path)
        self.manifest = _read_manifest(self._path)
        self._arrays = _map_arrays(self._path, self.manifest)
        if crop and self.manifest["variant"] != "clevr_with_masks":
            raise ValueError(f"`crop` is for CLEVR, and '{path}' is {self.manifest['variant']}")
        self.resolution, self.crop = resolution, crop and not self.manifest["crop"]
        if self.crop and self.manifest["resolution"]:
            raise ValueError(f"`crop` comes before resizing, and '{path}' is resized; convert it with crop")
        counts = np.asarray(self._arrays["num_objects"])
        kept = (counts >= min_objects) & (counts <= (255 if max_objects is None else max_objects))
        self.scenes = split_scenes(
            kept, split, TRAIN_SCENES.get(self.manifest["variant"], OTHER_TRAIN_SCENES)
        )
        if not len(self.scenes):
            limits = f"{min_objects} to {'any number of' if max_objects is None else max_objects} objects"
            raise PackError(f"'{path}': no scene of {limits} in {split}, of {len(counts)} scenes in all")

    def __getstate__(self) -> dict[str, Any]:
        """Without the arrays: worker processes that are not forked map the files again."""
        return {name: value for name, value in self.__dict__.items() if name != "_arrays"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._arrays = _map_arrays(self._path, self.manifest)

    def __len__(self) -> int:
        return len(self.scenes)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """`image` float32 [batch, 3, H, W] in [0, 1], `masks` int64 [batch, H, W], and of CLEVR `properties`
        float32 [batch, 10, 19].

        Raises ValueError where a file was cut since the data set was built.
        """
        for name, array in self._arrays.items():
            check_length(self._path / f"{name}.npy", array.offset + array.nbytes)
        numbers = self.scenes[np.asarray(indices, dtype=np.int64)]
        images, labels = self._pick("images", numbers), self._pick("masks", numbers)
        image = as_images(images)
        if self.resolution:
            image, labels = resize_bilinear(image, self.resolution), resize_nearest(labels, self.resolution)
        scenes: Scenes = {"image": image, "masks": torch.from_numpy(labels.astype(np.int64))}
        if "properties" in self._arrays:
            scenes["properties"] = torch.from_numpy(np.asarray(self._arrays["properties"][numbers]))
        return scenes

    def _pick(self, name: str, numbers: Integer[np.ndarray, " batch"]) -> np.ndarray:
        array = self._arrays[name]
        rows, columns = (CLEVR_ROWS, CLEVR_COLUMNS) if self.crop else (slice(None), slice(None))
        shape = array[:1, rows, columns].shape[1:]
        picked = np.empty((len(numbers), *shape), array.dtype)
        for row, number in enumerate(numbers):
            picked[row] = array[number, rows, columns]
        return picked


def split_scenes(kept: np.ndarray, split: str, num_train: int) -> Integer[np.ndarray, " scenes"]:
    """Numbers of the scenes of a split, from which ones pass the filter (bool [scenes]); see `Packed`.

    Example:
        >>> [split_scenes(np.ones(10, bool), split, 6).tolist() for split in ("train", "test", "validation")]
        [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    """
    num_train = min(num_train, int(TRAIN_SHARE * len(kept)))
    if split == "train":
        return np.flatnonzero(kept[:num_train])
    held_out = num_train + np.flatnonzero(kept[num_train:])
    num_test = min(TEST_SCENES, (len(held_out) + 1) // 2)
    return held_out[:num_test] if split == "test" else held_out[num_test:]


class _GrowingArray:
    """A .npy file of as many rows as come, the header of which is put right at the end."""

    def __init__(self, path: Path, row: np.ndarray):
        self.path, self.dtype, self.shape, self.count = path, row.dtype, row.shape, 0

    def __enter__(self) -> _GrowingArray:
        self.file: BinaryIO = open(self.path, "wb")
        self._write_header(_PLACEHOLDER)
        self.start = self.file.tell()
        return self

    def append(self, row: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(row).tobytes())
        self.count += 1

    def __exit__(self, kind: type | None, *rest: object) -> None:
        with self.file:
            if kind is None:
                self.file.seek(0)
                self._write_header(self.count)
                # NumPy leaves room for any count: "so that the header can be rewritten in place".
                assert self.file.tell() == self.start
                self.file.flush()
                os.fsync(self.file.fileno())

    def _write_header(self, count: int) -> None:
        description = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": description, "fortran_order": False, "shape": (count, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _write_arrays(
    scenes: RawScenes,
    folder: Path,
    crop: bool,
    resolution: int | None,
    max_scenes: int | None,
    progress: Callable[[int, float], None],
) -> int:
    """Write all scenes; returns their number."""
    count = 0
    with contextlib.ExitStack() as stack:
        arrays: dict[str, _GrowingArray] = {}
        for scene in itertools.islice(scenes, max_scenes):
            if crop and scene.labels.shape != (240, 320):
                raise PackError(f"{scenes.records.name}: `crop` is for CLEVR, and this is another set")
            for name, row in _prepare(scene, crop, resolution).items():
                if name not in arrays:
                    arrays[name] = stack.enter_context(_GrowingArray(folder / f"{name}.npy", row))
                arrays[name].append(row)
            count += 1
            progress(count, scenes.records.share)
    if not count:
        raise PackError(
            f"{scenes.records.name}: none of {len(scenes.skipped)} records is good; download it again"
        )
    return count


@contextlib.contextmanager
def _emptied_on_error(folder: Path) -> Iterator[None]:
    """Leave nothing of half a pack behind, which may be gigabytes, unless killed."""
    try:
        yield
    except BaseException:
        _empty(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def _empty(folder: Path) -> None:
    """Remove what a pack holds; of links, not what they lead to."""
    for name in (*(f"{name}.npy" for name in _ARRAYS), "manifest.json"):
        (folder / name).unlink(missing_ok=True)


def _prepare(scene: RawScene, crop: bool, resolution: int | None) -> dict[str, np.ndarray]:
    """The rows of one scene by the name of their array."""
    window = (CLEVR_ROWS, CLEVR_COLUMNS) if crop else (slice(None), slice(None))
    picture, labels = scene.picture[window], scene.labels[window]
    if resolution:
        image = resize_bilinear(as_images(np.array(picture)[None]), resolution)[0]
        picture = image.mul(255).round_().to(torch.uint8).permute(1, 2, 0).numpy()
        labels = resize_nearest(labels, resolution)
    rows = {"images": picture, "masks": labels, "num_objects": np.array(scene.num_objects, np.uint8)}
    return rows if scene.properties is None else rows | {"properties": scene.properties}


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = parse_json((path / "manifest.json").read_bytes())
    except OSError as error:
        problem = f"has no readable manifest.json ({error.strerror})"
        raise PackError(f"'{path}': {problem}; name a folder that `convert` made") from error
    except ValueError as error:
        raise PackError(f"'{path}': its manifest.json is damaged ({error}); convert again") from error
    whole = isinstance(manifest, dict) and all(name in manifest for name in _FACTS)
    if not whole or manifest.get("format") != FORMAT:
        raise PackError(f"'{path}': is not {FORMAT!r}; convert again")
    return manifest


def _map_arrays(path: Path, manifest: dict[str, Any]) -> dict[str, np.memmap]:
    arrays: dict[str, np.memmap] = {}
    for name, kind in _ARRAYS.items():
        file = path / f"{name}.npy"
        if name == "properties" and not file.exists():
            continue
        try:
            arrays[name] = np.lib.format.open_memmap(file, mode="r")
        except Exception as error:  # a damaged header makes NumPy raise nearly anything
            problem = " ".join(str(error).split())
            raise PackError(f"'{file}': cannot be read ({problem}); convert again") from error
        found = (arrays[name].dtype, arrays[name].ndim)
        if found != (np.dtype(kind[0]), kind[1]):
            raise PackError(f"'{file}': holds {found[0]} with {found[1]} axes; convert again")
        if len(arrays[name]) != manifest["num_scenes"]:
            count = len(arrays[name])
            raise PackError(f"'{file}': {count} scenes, not {manifest['num_scenes']}; convert again")
    return arrays
