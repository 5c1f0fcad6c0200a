"""A data set of a folder of videos, without masks: clips of a few frames each.

Every video is decoded once when the data set is built, so that damaged files are found before training.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from objecthood.data.io.cache import resized
from objecthood.data.io.frame_folder import FrameFolder, in_natural_order
from objecthood.data.io.frames import is_video
from objecthood.data.io.images import ImageError, files_below, holds_results, suffixes
from objecthood.data.io.video_file import VideoFile
from objecthood.data.randomness import indices_of_split, split_number
from objecthood.data.scene import Dataset, Scenes, check_selection

MAX_BYTES = 4_000_000_000
"""Of all frames together, 8 bits a colour: 26,000 of 224 x 224 pixels."""


class ClipFolder(Dataset):
    """Clips of all videos in a folder: video files, and folders of frames, in it or below it.

    A video is cut into clips of `frames` frames, one after the other; what is left over at its end is not
    used. The split of a clip depends only on the path of its video relative to the folder, as in
    `data.folder`; where a split would be empty, it reuses the last clips.

    Args:
        path: the folder.
        resolution: side in pixels of the frames' central squares, resized.
        split: "train", "validation" or "test".
        frames: number of frames of a clip.

    Raises:
        ImageError: no such folder, a damaged video, or none with `frames` frames.
        ValueError: an unknown split, a number below 1, or more than `MAX_BYTES` of frames.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = tempfile.TemporaryDirectory()
        >>> Path(folder.name, "walk").mkdir()
        >>> for number in range(7):
        ...     Image.new("RGB", (64, 48)).save(f"{folder.name}/walk/{number}.png")
        >>> clips = ClipFolder(folder.name, resolution=32, frames=3)
        >>> len(clips), clips[1]["image"].shape
        (2, torch.Size([3, 3, 32, 32]))
        >>> folder.cleanup()
    """

    def __init__(
        self, path: str | os.PathLike[str], resolution: int, split: str = "train", *, frames: int = 4
    ):
        check_selection(resolution, split)
        if frames < 1:
            raise ValueError(f"`frames` (={frames}) must be at least 1")
        root, name = Path(path), repr(os.fspath(path))
        if not root.is_dir():
            raise ImageError(f"{name}: is not a folder; name a folder of videos")
        if holds_results(root):
            raise ImageError(
                f"{name}: holds results of an earlier run, no videos to learn from; name another"
            )
        self.frames, self._videos, self._clips = frames, list[np.ndarray](), list[tuple[int, int]]()
        room, splits = MAX_BYTES // (3 * resolution**2), []
        for source in videos(root):
            opened = FrameFolder(source) if source.is_dir() else VideoFile(source)
            shown: list[np.ndarray] = []
            for frame in opened:
                if len(shown) >= room:
                    raise ValueError(
                        f"{name}: its frames take more than {MAX_BYTES / 1e9:.0f} GB at {resolution} x "
                        f"{resolution} pixels; name fewer videos, or a smaller --resolution"
                    )
                shown.append(resized(frame, None, resolution, 1.0).picture)
            room -= len(shown)
            starts = range(0, len(shown) - frames + 1, frames)
            self._clips += [(len(self._videos), start) for start in starts]
            splits += [split_number(source.relative_to(root).as_posix())] * len(starts)
            self._videos.append(np.stack(shown))
        if not self._clips:
            raise ImageError(f"{name}: no video of at least {frames} frames in it; name another folder")
        chosen, self.overlaps = indices_of_split(np.array(splits), split)
        self._clips = [self._clips[number] for number in chosen]

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices: Sequence[int] | np.ndarray) -> Scenes:
        """`image` float32 [batch, time, 3, resolution, resolution] in [0, 1]."""
        clips = np.stack([self._clip(*self._clips[index]) for index in indices])
        return {"image": torch.from_numpy(clips).movedim(-1, -3).float().div_(255)}

    def _clip(self, video: int, start: int) -> UInt8[np.ndarray, "time resolution resolution 3"]:
        return self._videos[video][start : start + self.frames]


def videos(root: Path) -> Iterator[Path]:
    """Video files and folders of frames below `root`, in natural order of their paths; without hidden ones
    and results of our own."""
    files = [path for path in files_below(root) if path.is_file()]
    found = {path for path in files if is_video(path)}
    allowed = suffixes()
    found |= {path.parent for path in files if path.suffix.lower() in allowed}
    return iter(sorted(found, key=lambda path: in_natural_order(path.as_posix())))
