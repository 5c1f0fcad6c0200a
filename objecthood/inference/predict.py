"""A user's pictures -> what a model sees in them: masks of a discovery model, objects in words of a set
predictor.

Pictures are only read; what is written lies in one folder of its own (`result_folder`). What comes out is a
`Result` for each picture: `PredictedMasks` or `PredictedObjects`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from objecthood import hub
from objecthood.analysis import out_of_distribution
from objecthood.data.io.frames import count_frames
from objecthood.data.io.images import MAX_PIXELS, ImageError
from objecthood.data.io.user_images import Picture, find_pictures, is_video, open_frames
from objecthood.data.randomness import several_starts
from objecthood.inference.masks import CUTOUTS, PredictedMasks
from objecthood.inference.objects import PredictedObjects
from objecthood.inference.result import Result, check_extras
from objecthood.inference.result_folder import ResultFolder
from objecthood.models import SlotModel
from objecthood.models.placement import FITS, Fit
from objecthood.nn import unite_grounds
from objecthood.runtime import limits

_OURS = (*PredictedMasks.endings.values(), *PredictedObjects.endings.values(), "-attention.gif")
RESULTS: dict[str, type[Result]] = {"masks": PredictedMasks, "objects": PredictedObjects}
"""What `predict` gives, by `SlotModel.result_kind`."""
Report = Callable[[Result, int], None]


def predict(
    model: SlotModel | str | Path = hub.DEFAULT,
    pictures: Any = None,
    out: str | Path | None = None,
    *,
    iterations: int | None = None,
    num_slots: int | None = None,
    starts: int | None = None,
    one_ground: bool = False,
    fit: Fit | None = None,
    batch_size: int = 16,
    skip_bad: bool = False,
    animate: bool = False,
    also: Sequence[str] = (),
    report: Report | None = None,
) -> list[Result]:
    """Find the objects of pictures; with `out`, also write what a model sees into that folder.

    Of a picture NAME a discovery model gives `NAME-overlay.png`, `NAME-masks.png` (a palette picture of
    labels: slot k is index k) and `NAME-masks.json` (COCO, one annotation for each slot that is seen, with
    its index as "slot"), all at the picture's own size; a set predictor `NAME-objects.png` (names written on
    the picture) and `NAME-objects.json`. With `animate` both give `NAME-attention.gif`. A video gives the
    same for every frame, without animations, in a folder of its name.

    Below a folder the sub-folders are kept; where two pictures would share a NAME, the later one gets a
    number. A picture is resized to the image size of the model with its aspect ratio kept (`fit`); weights
    trained on CLEVR-like scenes saw the paper's square cut (of CLEVR's 320 x 240 pixels rows 29 to 221,
    columns 64 to 256): cut such pictures first. Start noise is the same for every picture, so
    that its result does not depend on its company, but for rounding. A result whose `warning` is not empty is
    of a picture unlike the training data.

    Args:
        model: such as `oh.load` gives, or what it would load: a name, file or run folder.
        pictures: one or several of: files, folders, patterns, videos, "camera", encoded bytes, uint8 arrays
            [height, width, 3], float tensors [3, height, width] in [0, 1], Pillow pictures. By default the
            picture that comes with the named weights.
        out: a new or empty folder, or one that an earlier call wrote; names it gave are kept, files replaced.
        iterations, num_slots: the model's own unless given; at least 1, slots at most 256.
        starts: how often slots begin anew, from other noise; kept is what paints the picture best. The
            model's own unless given: 1 in most, and no other where slots begin the same every time.
        one_ground: whether slots that reach across the picture are united, as one ground of several colours
            (`nn.unite_grounds`); of discovery models.
        fit: "pad" (the whole picture, its border repeated around it), "crop" (its central square; outside of
            it, no slot is seen: label -1) or "squash" (the whole picture, its aspect ratio not kept). The
            model's own unless given: "squash" where it was trained on squashed pictures (`folder`), else
            "pad". Of square pictures all three are the same.
        batch_size: pictures that go through the model at once.
        skip_bad: go on after a picture that cannot be read; its result carries the `error`.
        animate: whether to write animations, which take as long as all else.
        also: "arrays" (`NAME-arrays.npz`: soft masks, slots, attention, labels and all else the model gave),
            "cutouts" (`NAME-cutouts/slot-K.png`: the picture where slot K is seen, as opaque as its mask).
        report: called with each result and the number of all pictures (0 where a video does not say).

    Returns: the results, in the order of the pictures. For thousands of pictures, or a video, take `stream`,
        which yields one after the other and keeps none.

    Raises:
        ImageError: no picture, or, without `skip_bad`, one that cannot be read.
        ValueError: a model of another kind, a number out of range, or a folder `out` that holds other files.

    Example:
        >>> import objecthood as oh
        >>> (result,) = oh.predict("tetrominoes")  # the picture that comes with these weights
        >>> result.labels.shape, result.attention.shape, result.warning
        ((35, 35), torch.Size([5, 4, 18, 18]), '')
        >>> results = oh.predict("tetrominoes", np.zeros((48, 64, 3), np.uint8), num_slots=6)
        >>> results[0].labels.shape, len(results[0].masks)
        ((48, 64), 6)
    """
    return list(
        stream(
            model,
            pictures,
            out,
            iterations=iterations,
            num_slots=num_slots,
            starts=starts,
            one_ground=one_ground,
            fit=fit,
            batch_size=batch_size,
            skip_bad=skip_bad,
            animate=animate,
            also=also,
            report=report,
        )
    )


def stream(
    model: SlotModel | str | Path = hub.DEFAULT,
    pictures: Any = None,
    out: str | Path | None = None,
    *,
    iterations: int | None = None,
    num_slots: int | None = None,
    starts: int | None = None,
    one_ground: bool = False,
    fit: Fit | None = None,
    batch_size: int = 16,
    skip_bad: bool = False,
    animate: bool = False,
    also: Sequence[str] = (),
    report: Report | None = None,
) -> Iterator[Result]:
    """`predict`, one result after the other: a folder or video of any length in the memory of a batch.

    What can be checked is checked at once; pictures are read as results are asked for.
    """
    if pictures is None:
        if not isinstance(model, str) or model not in hub.PRETRAINED:
            raise ValueError("these weights come with no picture of their own; name pictures to look at")
        pictures = hub.PRETRAINED[model].picture
    if isinstance(model, str | Path):
        model = hub.load(model)  # type: ignore[assignment]  # refused below where it is another kind
    if not isinstance(model, SlotModel):
        raise ValueError(
            f"a {type(model).__name__} is no model to predict with; take weights of a recipe of `objecthood "
            "list`"
        )
    if model.sees == "motion":
        raise ValueError(
            "these weights see motion, and one picture has none; take `predict_video` of a video"
        )
    if fit is not None and fit not in FITS:
        raise ValueError(f"`fit` (={fit!r}) must be one of {', '.join(FITS)}")
    how = _Looks(
        model.iterations if iterations is None else iterations,
        num_slots,
        model.restarts if starts is None else starts,
        one_ground,
        fit,
    )
    if num_slots is not None:
        _check_range("num_slots", num_slots, limits.SLOTS)
    _check_range("iterations", how.iterations, limits.ITERATIONS)
    _check_range("starts", how.starts, limits.RESTARTS)
    if how.starts > 1 and not model.restarts_differ:
        raise ValueError(
            f"`starts` (={how.starts}) must be 1 here: the slots of these weights begin the same every time; "
            "leave it away"
        )
    if one_ground and model.result_kind != "masks":
        raise ValueError("`one_ground` (=True) unites masks, and these weights give none; leave it away")
    _check_range("batch_size", batch_size)
    check_extras(also, RESULTS[model.result_kind].extras)
    folder = None if out is None else ResultFolder(out)
    found = find_pictures(pictures, skip_bad=skip_bad)
    names: dict[Path, str] = {}
    if folder:
        found = _without_results(found, folder.path)
        folder.open()
        new = {picture.path for picture in found if picture.in_memory}
        names = folder.choose({picture.path: picture.relative for picture in found}, new)

    def save(result: Result, picture: Picture) -> None:
        if folder is None or result.error:
            return
        is_frame = picture.source != picture.path
        place = names[picture.source]
        stem = folder.place(f"{place}/{picture.relative.name}" if is_frame else place)
        result.write(stem, animate=animate and not is_frame, also=also)

    results = _run(model, found, how, 1 if model.any_size else batch_size, skip_bad, save, report)
    return results if folder is None else folder.closing(results)


class _Looks(NamedTuple):
    iterations: int
    num_slots: int | None
    starts: int
    one_ground: bool
    fit: Fit | None


def _run(
    model: SlotModel,
    found: list[Picture],
    how: _Looks,
    batch_size: int,
    skip_bad: bool,
    save: Callable[[Result, Picture], None],
    report: Report | None,
) -> Iterator[Result]:
    counts = [count_frames(one.path) if _is_whole_video(one) else 1 for one in found] if report else [0]
    total = sum(counts) if all(counts) else 0
    was_training = model.training
    model.eval()
    try:
        for group in _groups(found, batch_size, skip_bad):
            results = iter(_look(model, [one for one in group if one[1] is not None], how))
            for picture, content, error in group:
                failed = Result(picture.path, picture.relative, error=error)
                result = failed if content is None else next(results)
                result.in_memory = picture.in_memory
                save(result, picture)
                if report:
                    report(result, total)
                yield result
    finally:
        model.train(was_training)


def _look(
    model: SlotModel,
    group: list[tuple[Picture, UInt8[np.ndarray, "_ _ 3"] | None, str]],
    how: _Looks,
) -> Iterator[Result]:
    """What the model makes of pictures that were read."""
    if not group:
        return
    contents = [content for _, content, _ in group if content is not None]
    inputs, placements = zip(*(model.preprocess(content, how.fit) for content in contents), strict=True)
    images = torch.stack(inputs)
    same = np.zeros(len(images), np.int64)
    num_slots = model.num_slots if how.num_slots is None else how.num_slots
    noise = several_starts(same, how.starts, num_slots, model.slot_dim).to(model.device)
    with torch.no_grad():
        output = model.segment(images.to(model.device), how.num_slots, how.iterations, noise=noise)
    if how.one_ground:
        if output.masks is None or output.appearance is None:
            raise ValueError(
                "`one_ground` (=True) unites what slots decode, and these weights decode nothing"
            )
        masks, appearance = unite_grounds(output.masks, output.appearance)
        output = output._replace(masks=masks, appearance=appearance)
    output = output._replace(**{name: values.float().cpu() for name, values in output.found().items()})
    strange = model.anomaly_score(images, output)
    for index, ((picture, _, _), placement) in enumerate(zip(group, placements, strict=True)):
        yield RESULTS[model.result_kind](
            picture.path,
            picture.relative,
            placement,
            picture.read,
            images[index].clone(),
            {name: values[index].clone() for name, values in output.found().items()},
            warning=out_of_distribution.warn_of(
                {measure: values[index].item() for measure, values in strange.items()}, model.usual
            ),
        )


def _groups(
    found: list[Picture], batch_size: int, skip_bad: bool
) -> Iterator[list[tuple[Picture, UInt8[np.ndarray, "_ _ 3"] | None, str]]]:
    """Pictures, or why one cannot be read, `batch_size` at a time; fewer where they are large."""
    group: list[tuple[Picture, UInt8[np.ndarray, "_ _ 3"] | None, str]] = []
    pixels = 0
    for picture, content, error in _read_all(found, skip_bad):
        size = 0 if content is None else content.shape[0] * content.shape[1]
        if group and (len(group) == batch_size or pixels + size > MAX_PIXELS):
            yield group
            group, pixels = [], 0
        group.append((picture, content, error))
        pixels += size
    if group:
        yield group


def _read_all(
    found: list[Picture], skip_bad: bool
) -> Iterator[tuple[Picture, UInt8[np.ndarray, "_ _ 3"] | None, str]]:
    """Every picture and every frame with its content, or, with `skip_bad`, why it cannot be read."""
    for picture in found:
        try:
            if _is_whole_video(picture):
                for frame in open_frames(picture):
                    yield frame, frame.read(), ""
            else:
                yield picture, picture.read(), ""
        except ImageError as problem:
            if not skip_bad:
                raise
            yield picture, None, str(problem)


def _is_whole_video(picture: Picture) -> bool:
    return is_video(picture.path) and os.path.isfile(picture.path)


def _without_results(found: list[Picture], out: Path) -> list[Picture]:
    """Pictures without our own results among them; ValueError where another lies in the folder."""
    inside, kept = os.path.join(os.path.realpath(out), ""), []
    for picture in found:
        place = os.path.realpath(picture.path)
        if not place.startswith(inside):
            kept.append(picture)
        elif not (place.endswith(_OURS) or os.path.dirname(place).endswith(CUTOUTS)):
            raise ValueError(f"{picture.path} lies in the folder to write to, {out}; name another folder")
    if not kept:
        raise ImageError("no picture to look at; name pictures, folders or patterns")
    return kept


def _check_range(name: str, value: int, most: int | None = None) -> None:
    if not isinstance(value, int) or value < 1 or (most and value > most):
        raise ValueError(
            f"`{name}` (={value!r}) must be a whole number, at least 1"
            + (f" and at most {most}" if most else "")
        )
