"""MOVi clips in their published form, TFRecord files of Kubric's TensorFlow Datasets, without TensorFlow.

Greff et al. 2022, "Kubric: a scalable dataset generator" (arXiv 2203.03570). The features read are those of
the published builders (google-research/kubric, challenges/movi/movi_a.py to movi_e.py): "video" and
"segmentations", a PNG for each frame, and "forward_flow", 16-bit numbers over the range in
"metadata/forward_flow_range", (down, across), which come out as (across, down) in pixels.

Checked against files written here from that description, not against the published ones.
"""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from objecthood.data.io.images import MAX_PIXELS, read_image
from objecthood.data.published.protobuf import Feature, parse_example
from objecthood.data.published.tfrecord import RecordError, Records
from objecthood.data.scene import Scenes


class Movi:
    """The clips of TFRecord files in order, as batches of one; one clip is in memory at a time.

    Args:
        paths: a file, a folder (its .tfrecord files), or a pattern.
        with_flow: whether "forward_flow" is decoded as well.

    Raises:
        RecordError: no file, a folder or pattern with some of the shards alone (name-00000-of-00002), a
            damaged record, or one without a feature of MOVi's, or whose frames and segmentations differ.
    """

    def __init__(self, paths: str | os.PathLike[str], *, with_flow: bool = False):
        name = os.fspath(paths)
        pattern = os.path.join(glob.escape(name), "*.tfrecord*") if os.path.isdir(name) else name
        self.files = sorted(glob.glob(pattern)) or ([name] if os.path.isfile(name) else [])
        self.with_flow = with_flow
        if not self.files:
            raise RecordError(f"{name!r}: no TFRecord file; name a file, a folder or a pattern")
        if self.files != [name]:
            _refuse_missing_shards(self.files)

    def __iter__(self) -> Iterator[Scenes]:
        """image [1, time, 3, H, W] in [0, 1], masks [1, time, H, W], 0 background; flow if asked for."""
        for file in self.files:
            for number, record in enumerate(Records(file)):
                try:
                    yield clip_of(parse_example(record), self.with_flow)
                except (KeyError, ValueError) as error:
                    raise RecordError(f"{file!r}, record {number}: not a MOVi clip ({error})") from error


def _refuse_missing_shards(files: list[str]) -> None:
    """RecordError where of files that number themselves (-00000-of-00002) some are not there."""
    found: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = re.fullmatch(r"(.*)-(\d{5,})-of-(\d{5,})(.*)", file)
        if match:
            found.setdefault((f"{match[1]}*{match[4]}", int(match[3])), set()).add(int(match[2]))
    for (name, count), numbers in found.items():
        missing = next((number for number in range(count) if number not in numbers), None)
        if missing is not None:
            raise RecordError(
                f"{name!r}: {len(numbers)} of {count} shards, number {missing} is missing; complete the copy "
                "or name single files"
            )


def clip_of(features: dict[str, Feature], with_flow: bool) -> Scenes:
    """One clip from the features of its record."""
    frames = np.stack([read_image(bytes(picture)) for picture in features["video"]])
    labels = np.stack([read_labels(bytes(picture)) for picture in features["segmentations"]])
    if frames.shape[:3] != labels.shape:
        sizes = (" x ".join(map(str, part.shape[:3])) for part in (frames, labels))
        raise ValueError("{} frames with {} segmentations (number, height, width)".format(*sizes))
    image = torch.from_numpy(frames).permute(0, 3, 1, 2).float().div(255)
    clip: Scenes = {"image": image[None], "masks": torch.from_numpy(labels.astype(np.int64))[None]}
    if with_flow:
        low, high = np.asarray(features["metadata/forward_flow_range"], np.float32).ravel()
        steps = np.asarray(features["forward_flow"], np.float32).reshape(*labels.shape, 2)
        flow = steps[..., ::-1] / 65535 * (high - low) + low  # (down, across) as stored
        clip["flow"] = torch.from_numpy(np.ascontiguousarray(flow.transpose(0, 3, 1, 2)))[None]
    return clip


def read_labels(content: bytes) -> np.ndarray:
    """The numbers of a grey PNG, as stored."""
    with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
        if picture.mode not in ("L", "P", "I;16"):
            raise ValueError(f"segmentations of mode {picture.mode!r}, not grey")
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(f"segmentations of {picture.width} x {picture.height} pixels are too large")
        return np.asarray(picture)
