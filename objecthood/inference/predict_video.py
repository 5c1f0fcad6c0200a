"""Predict videos: an overlay video, label maps and the tracks of all slots.

Frames are streamed, so that memory does not grow with the length. Results are written into one folder, marked
by `video-predictions.json`; the input video is only read.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int16, UInt8
from PIL import Image
from torch import Tensor

from objecthood import hub
from objecthood.data.io.frame_folder import FrameFolder
from objecthood.data.io.frames import is_video
from objecthood.data.io.images import resize_image
from objecthood.data.io.video_file import VideoFile, VideoWriter
from objecthood.data.randomness import start_noise
from objecthood.inference.clip_frames import object_masks, windows
from objecthood.inference.masks import NO_SLOT, enlarge_labels
from objecthood.inference.result_folder import VIDEO_RECORD, ResultFolder
from objecthood.models import SlotModel
from objecthood.models.placement import Fit, Placement, whole
from objecthood.motion.components import MEMORY
from objecthood.motion.fields import SequenceFields, fields_of, flow_size
from objecthood.motion.tracking import Tracker, Tracks
from objecthood.runtime.files import plain_part, remove_link, staged, staged_files
from objecthood.runtime.threads import parallel
from objecthood.visualize import figures
from objecthood.visualize.video import mark_motion

COLUMNS = ("frame", "seconds", "slot", "area", "x", "y", "velocity_x", "velocity_y", "speed", "moving")
"""Columns of the tracks: area as a share of the frame; coordinates in pixels of the video; velocities
relative to the background, in pixels of the video per frame."""
WINDOW, MARGIN = 64, 24
"""Frames in a window of a motion model, and additional frames on either side: averages along paths decay by
5 / 6 per frame, to a hundredth after 25 frames."""


Found: TypeAlias = tuple[
    UInt8[np.ndarray, "height width 3"], Float[Tensor, "slots rows columns"], Placement, Tracks
]
"""A frame, masks in the model's input, the placement of the frame in the input, and tracks in pixels of the
input, relative to the corner of the frame."""


class VideoResult(NamedTuple):
    """The result of one video."""

    path: Path
    frames: int
    """Number of frames."""
    files: dict[str, Path]
    """"video", "masks" (a folder of label maps, one per frame), "csv", "json" and "mot" (tracks)."""


def predict_video(
    model: SlotModel | str | Path,
    path: str | Path,
    out: str | Path,
    *,
    iterations: int | None = None,
    num_slots: int | None = None,
    fit: Fit | None = None,
    report: Callable[[int, int], None] | None = None,
) -> VideoResult:
    """Find and track the objects in a video file or a folder of frames.

    For a video NAME.mp4 it writes `NAME-overlay.mp4` (same size, frames and times; a fixed colour per slot;
    an arrow on moving slots, a dot on static ones), the folder `NAME-masks` (palette images, slot k is index
    k), `NAME-tracks.csv` (a row per slot and frame), `NAME-tracks.json` (the same, with size, frame rate
    and a summary of each slot) and `NAME-tracks.txt` (boxes in the text format of MOTChallenge: frame and
    identity from 1, left, top, width, height in pixels, 1, -1, -1, -1; without the background; see `Boxes`).
    An image model predicts frames independently, so its slots may switch objects. A motion model
    (`motion-grouping`) has two slots, static and moving; `video` one for the background, which is not tinted,
    and one for each object. Sound is dropped.

    Args:
        model: a discovery model, or a name ("video"), file or run folder for `oh.load`.
        path: a video file or a folder of frames.
        out: a new or empty folder, or that of an earlier call.
        iterations: of the first frame, or of every frame for an image model; the model's own by default.
        num_slots: the model's own by default.
        fit: "pad", "crop" or "squash" as in `predict`; the model's own by default.
        report: called with the number of processed frames and of all frames (0 if unknown). A frame that a
            clip model (`video`) has read ahead counts half, as its motion and masks take as long again.

    Raises:
        ImageError: the video cannot be read.
        ValueError: an unsuitable model, or a folder `out` with other files.
    """
    if isinstance(model, str | Path):
        model = hub.load(model)  # type: ignore[assignment]  # refused below where it is another kind
    if not isinstance(model, SlotModel) or model.result_kind != "masks":
        raise ValueError(
            f"a {type(model).__name__} cannot predict videos; use `video` or weights of moving-sprites"
        )
    if model.any_size:
        raise ValueError(
            "these weights segment every image independently: segments do not persist over frames; use "
            "the model `video`"
        )
    path, folder = Path(path), ResultFolder(out, VIDEO_RECORD)
    source = FrameFolder(path) if path.is_dir() else VideoFile(path)
    folder.open()
    try:
        (name,) = folder.choose({path: _named(path)}).values()
        return _predict_into(model, source, folder.place(name), iterations, num_slots, fit, report)
    finally:
        folder.close()


def _named(path: Path) -> Path:
    """The file name; for a folder its whole name as the stem, with the suffix ".frames"."""
    if path.is_dir():
        return Path(plain_part(os.path.basename(os.path.abspath(path))) + ".frames")
    return Path(path.name)


def _predict_into(
    model: SlotModel,
    source: FrameFolder | VideoFile,
    stem: Path,
    iterations: int | None,
    num_slots: int | None,
    fit: Fit | None,
    report: Callable[[int, int], None] | None,
) -> VideoResult:
    """Write all results of `predict_video`, named after `stem`."""
    path = source.path
    files = {
        "video": stem.with_name(f"{stem.name}-overlay.mp4"),
        "masks": stem.with_name(f"{stem.name}-masks"),
        "csv": stem.with_name(f"{stem.name}-tracks.csv"),
        "json": stem.with_name(f"{stem.name}-tracks.json"),
        "mot": stem.with_name(f"{stem.name}-tracks.txt"),
    }
    for kind in ("video", "csv", "json", "mot"):
        remove_link(files[kind])
    was_training, read, done = model.training, 0, 0
    is_first = model.modality == "motion" and not model.tracks  # the background is slot 0
    background = 0
    model.eval()

    def note_read(count: int) -> None:
        nonlocal read
        read = count
        if report:
            report((read + done) // 2, source.num_frames)

    facts = {
        "video": path.as_posix(),
        "width": source.size[1],
        "height": source.size[0],
        "rate": float(source.rate),
    }
    try:
        with (
            staged_files(files["masks"]) as masks_folder,
            staged(files["video"]) as video,
            staged(files["csv"]) as rows_file,
            staged(files["json"]) as json_file,
            staged(files["mot"]) as boxes_file,
            VideoWriter(video, source.size, source.rate) as writer,
            Table(rows_file, json_file, facts) as table,
            boxes_file.open("w") as box_lines,
        ):
            boxes = Boxes(num_slots or model.num_slots, MEMORY if model.clips else None)
            found = seen(model, source, iterations, num_slots, fit, note_read)
            draw_one = partial(_draw_one, model, masks_folder)
            for labels, overlay, tracks, scale, pixels in parallel(draw_one, enumerate(found)):
                seconds = source.seconds(done)
                writer.write(overlay, seconds)
                table.add(tracks, scale, pixels, seconds)
                if not is_first and (done == 0 or not model.tracks):  # slots persist: decided once
                    background = int(tracks.area.argmax())
                box_lines.writelines(boxes.lines(labels, done + 1, background))
                done += 1
                note_read(max(read, done))
            for old in files["masks"].glob("[0-9]*.png"):
                old.unlink()
    finally:
        model.train(was_training)
    return VideoResult(path, done, files)


def seen(
    model: SlotModel,
    source: FrameFolder | VideoFile,
    iterations: int | None,
    num_slots: int | None,
    fit: Fit | None = None,
    read: Callable[[int], None] | None = None,
) -> Iterator[Found]:
    """Predictions of all frames: `look`, `look_at_motion` for a motion model, or `object_masks` for clips,
    which calls `read` with the number of frames read ahead."""
    if model.tracks or model.modality == "frame":
        return look(model, source, iterations, num_slots, fit)
    if (iterations, num_slots, fit) != (None, None, None):
        raise ValueError("motion models accept no `iterations`, `num_slots` or `fit`; omit them")
    if model.clips:
        return tracked(model, source, object_masks(model, source, read))
    return look_at_motion(model, source)


def look_at_motion(model: SlotModel, source: FrameFolder | VideoFile) -> Iterator[Found]:
    """Predict static and moving regions of every frame, as `runs/experiments/davis.py` evaluates them.

    The source is read twice, so that only small copies of the frames ahead are held in memory; of a video
    that is cut in between, the frames that come both times count.
    """
    size = flow_size(source.size)
    masks = (
        torch.stack([1 - mask, mask])
        for frames, inner in windows((resize_image(frame, size) for frame in source), WINDOW, MARGIN)
        for mask in moving_masks(model, frames)[inner]
    )
    return tracked(model, source, masks)


def tracked(
    model: SlotModel,
    source: FrameFolder | VideoFile,
    masks: Iterable[Float[Tensor, "slots rows columns"]],
) -> Iterator[Found]:
    """Every frame with the next of `masks` and its tracks; `masks` may run ahead by a window."""
    tracker = Tracker()
    for (frame, small, following, _), found in zip(ahead(source, model, "squash"), masks, strict=False):
        square = torch.nn.functional.interpolate(found[None], small.shape[-2:], mode="area")
        tracks = tracker.update(small, square.to(model.device), following)
        yield frame, found, whole(source.size), Tracks(*(part[0].cpu() for part in tracks))


@torch.no_grad()
def moving_masks(
    model: SlotModel, frames: list[UInt8[np.ndarray, "height width 3"]]
) -> Float[Tensor, "frames rows columns"]:
    """The mask of moving pixels of frames of one size, at half their size."""
    if len(frames) < 2:
        raise ValueError("the video has 1 frame; motion needs at least two")
    device = model.device
    fields = SequenceFields(*(part.to(device).float() for part in fields_of(frames)))
    size = fields.flow.shape[-2], fields.flow.shape[-1]
    small = torch.from_numpy(np.stack([resize_image(frame, size) for frame in frames]))
    images = small.to(device).permute(0, 3, 1, 2).float().div(255)
    return model.recipe.objects(model, fields, images).cpu()


def look(
    model: SlotModel,
    source: Iterable[UInt8[np.ndarray, "height width 3"]],
    iterations: int | None = None,
    num_slots: int | None = None,
    fit: Fit | None = None,
) -> Iterator[Found]:
    """Predict every frame with propagated slots; one frame is read ahead."""
    slots = model.num_slots if num_slots is None else num_slots
    noise = start_noise(np.zeros(1, np.int64), slots, model.slot_dim).to(model.device)
    tracker, state = Tracker(), None
    for frame, small, following, placement in ahead(source, model, fit):
        with torch.no_grad():
            output, state = model.step(
                small, state, following, num_slots=slots, iterations=iterations, noise=noise
            )
            masks = output.masks.float()
            after = None if following is None else placement.crop(following)
            tracks = tracker.update(placement.crop(small), placement.crop(masks), after)
        tracks = Tracks(*(part[0].cpu() for part in tracks))
        centre = within_frame(tracks.centre, model, placement)
        yield frame, masks[0].cpu(), placement, tracks._replace(centre=centre)


def within_frame(
    centre: Float[Tensor, "slots 2"], model: SlotModel, placement: Placement
) -> Float[Tensor, "slots 2"]:
    """Centres (across, down; -1: empty slot) relative to the corner of the frame instead of the crop."""
    (rows, columns), (top, left, height, width) = placement.shown(model.image_size), placement.box
    corner = torch.tensor([left * columns / width, top * rows / height])
    return torch.where(centre < 0, centre, centre + corner)


def ahead(
    source: Iterable[UInt8[np.ndarray, "height width 3"]], model: SlotModel, fit: Fit | None
) -> Iterator[tuple[UInt8[np.ndarray, "height width 3"], Tensor, Tensor | None, Placement]]:
    """Every frame, its input [1, 3, rows, columns], the next input (None at the end), and the placement."""
    waiting: tuple[np.ndarray, Tensor, Placement] | None = None
    for frame in source:
        small, placement = model.preprocess(frame, fit)
        view = small[None].to(model.device)
        if waiting:
            yield *waiting[:2], view, waiting[2]
        waiting = frame, view, placement
    if waiting:
        yield *waiting[:2], None, waiting[2]


def _draw_one(
    model: SlotModel, folder: Path, item: tuple[int, Found]
) -> tuple[Int16[Tensor, "height width"], np.ndarray, Tracks, tuple[float, float], int]:
    """Labels of a numbered frame, also saved in `folder`; its overlay and tracks; and of the model's input,
    pixels of the video per pixel (across, down), and the number of pixels."""
    number, (frame, masks, placement, tracks) = item
    labels = enlarge_labels(masks, placement)
    figures.indexed_png(labels.where(labels >= 0, NO_SLOT), folder / f"{number:06d}.png")
    rows, columns = placement.shown(model.image_size)
    scale = placement.box[3] / columns, placement.box[2] / rows
    return labels, draw(frame, labels, tracks, scale, int(model.clips)), tracks, scale, rows * columns


def draw(
    frame: UInt8[np.ndarray, "height width 3"],
    labels: Int16[Tensor, "height width"],
    tracks: Tracks,
    scale: tuple[float, float],
    first_slot: int = 0,
) -> UInt8[np.ndarray, "height width 3"]:
    """The frame with its overlay, arrows and dots; slots before `first_slot` are not tinted."""
    image = torch.from_numpy(frame).permute(2, 0, 1).float().div_(255)
    tinted: Image.Image = figures.overlay_one(image, labels.where(labels >= first_slot, -1).long(), 0.5)
    mark_motion(tinted, tracks, scale)
    return np.asarray(tinted)


class Boxes:
    """Boxes of slots as lines of MOTChallenge's format. An object's identity is its slot, counted from 1; an
    object that takes over a slot (see `memory`) has the next number that was never used.

    Args:
        num_slots: of the model.
        memory: a slot that was empty for more frames holds another object; None: always the same object.

    Example:
        >>> labels = torch.zeros(4, 6, dtype=torch.int16)
        >>> labels[1:3, 2:5] = 1
        >>> boxes = Boxes(num_slots=2, memory=3)
        >>> [line for frame in (7, 8, 13) for line in boxes.lines(labels, frame, background=0)]
        ['7,2,2,1,3,2,1,-1,-1,-1\\n', '8,2,2,1,3,2,1,-1,-1,-1\\n', '13,3,2,1,3,2,1,-1,-1,-1\\n']
    """

    def __init__(self, num_slots: int, memory: int | None = None):
        self._memory, self._largest = memory, num_slots
        self._identities: dict[int, int] = {}
        self._last: dict[int, int] = {}

    def lines(self, labels: Int16[Tensor, "height width"], frame: int, background: int) -> Iterator[str]:
        """The lines of all slots but `background` in frame `frame` (from 1)."""
        for slot in labels.unique().tolist():
            if slot >= 0 and slot != background:
                rows, columns = (labels == slot).nonzero(as_tuple=True)
                left, top = int(columns.min()), int(rows.min())
                size = int(columns.max()) + 1 - left, int(rows.max()) + 1 - top
                yield f"{frame},{self._identity(slot, frame)},{left},{top},{size[0]},{size[1]},1,-1,-1,-1\n"

    def _identity(self, slot: int, frame: int) -> int:
        away = frame - self._last.get(slot, frame) - 1
        if self._memory is not None and away > self._memory:
            self._largest += 1
            self._identities[slot] = self._largest
        self._last[slot] = frame
        return self._identities.get(slot, slot + 1)


class Table:
    """Streams tracks to CSV and JSON; the summary is written at the end."""

    def __init__(self, csv_file: Path, json_file: Path, facts: dict[str, Any]):
        self._csv, self._json = csv_file.open("w", newline=""), json_file.open("w")
        self._rows = csv.writer(self._csv)
        self._rows.writerow(COLUMNS)
        self._json.write(json.dumps(facts | {"columns": COLUMNS})[:-1] + ', "tracks": [')
        self._facts, self._frame, self._separator = facts, 0, "\n"
        self._slots: dict[int, dict[str, Any]] = {}

    def add(
        self, tracks: Tracks, scale: tuple[float, float], pixels: int, seconds: float | None = None
    ) -> None:
        """Add the next frame, shown at `seconds` (by default from the frame rate). The model's input has
        `pixels` pixels, each `scale` pixels of the video across and down."""
        seconds = round(self._frame / self._facts["rate"] if seconds is None else seconds, 4)
        across, down = scale
        for slot, ((x, y), area, velocity, moving) in enumerate(
            zip(*(part.tolist() for part in tracks), strict=True)
        ):
            if x < 0:
                continue
            fast = velocity[0] * across, velocity[1] * down
            speed = (fast[0] ** 2 + fast[1] ** 2) ** 0.5
            places = ((x + 0.5) * across, (y + 0.5) * down, *fast, speed)
            row = [self._frame, seconds, slot, round(area / pixels, 5), *(round(n, 3) for n in places)]
            self._rows.writerow([*row, int(moving)])
            self._json.write(self._separator + json.dumps([*row, moving]))
            self._separator = ",\n"
            facts = {"slot": slot, "first_frame": self._frame, "frames": 0, "moving_frames": 0}
            summary = self._slots.setdefault(slot, facts)
            summary["last_frame"] = self._frame
            summary["frames"] += 1
            summary["moving_frames"] += int(moving)
        self._frame += 1

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *problem: object) -> None:
        slots = json.dumps([self._slots[slot] for slot in sorted(self._slots)])
        self._json.write(f'\n], "frames": {self._frame}, "slots": {slots}}}\n')
        self._csv.close()
        self._json.close()


def sees_video(model: object) -> bool:
    """Whether a model needs consecutive frames: a video or motion model."""
    return isinstance(model, SlotModel) and (model.tracks or model.modality == "motion")


def are_videos(paths: Iterable[str], model: object) -> bool:
    """Whether `paths` are videos: video files, or folders of frames for a video model."""
    kinds = [is_video(path) or (sees_video(model) and os.path.isdir(path)) for path in paths]
    if any(kinds) and not all(kinds):
        raise ValueError("the inputs mix videos and images; predict them separately")
    if sees_video(model) and not all(kinds):
        raise ValueError("these weights are of a video model; name video files or folders of frames")
    return bool(kinds) and all(kinds)
