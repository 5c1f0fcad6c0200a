"""Predict images: masks with a discovery model (`PredictedMasks`), named objects with a set predictor
(`PredictedObjects`).

Results are written into one folder (`result_folder`); input images are only read.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from objecthood import hub
from objecthood.analysis import out_of_distribution
from objecthood.data.io.frames import count_frames, is_video
from objecthood.data.io.images import MAX_PIXELS, ImageError
from objecthood.data.io.user_images import InputImage, find_inputs, open_frames
from objecthood.data.randomness import restart_noise
from objecthood.inference.masks import CUTOUTS, PredictedMasks
from objecthood.inference.objects import PredictedObjects
from objecthood.inference.result import Result, check_extras
from objecthood.inference.result_folder import ResultFolder
from objecthood.models import SlotModel
from objecthood.models.placement import FITS, Fit
from objecthood.nn import merge_background
from objecthood.runtime import limits, renamed

_OURS = (*PredictedMasks.endings.values(), *PredictedObjects.endings.values(), "-attention.gif")
RESULTS: dict[str, type[Result]] = {"masks": PredictedMasks, "objects": PredictedObjects}
"""Result classes by `SlotModel.result_kind`."""
Report = Callable[[Result, int], None]
_Read = tuple[InputImage, UInt8[np.ndarray, "_ _ 3"] | None, str]
"""An image with its content or read error."""


@renamed.arguments
def predict(
    model: SlotModel | str | Path = hub.DEFAULT,
    images: Any = None,
    out: str | Path | None = None,
    *,
    iterations: int | None = None,
    num_slots: int | None = None,
    restarts: int | None = None,
    merge_background: bool = False,
    fit: Fit | None = None,
    fine: bool = False,
    batch_size: int = 16,
    skip_bad: bool = False,
    animate: bool = False,
    also: Sequence[str] = (),
    report: Report | None = None,
) -> list[Result]:
    """Find the objects in images; with `out`, also write the results into that folder.

    For an image NAME, a discovery model writes `NAME-overlay.png`, `NAME-masks.png` (palette image of labels:
    slot k is index k) and `NAME-masks.json` (COCO, one annotation per active slot, with its index as "slot"),
    all at the image's size; a set predictor writes `NAME-objects.png` (annotated image) and
    `NAME-objects.json`. With `animate`, both write `NAME-attention.gif`. For a video, the results of all
    frames, without animations, go into a folder with its name.

    Sub-folders of input folders are kept; a repeated NAME gets a number. Images are resized to the model's
    input as set by `fit`. Models trained on CLEVR-like scenes expect the paper's crop (rows 29 to 221,
    columns 64 to 256 of CLEVR's 320 x 240 pixels): crop such images first. The initial noise is the same for
    every image, so a result does not depend on the other images, except for rounding. A non-empty `warning`
    marks an image that is likely out of distribution.

    Args:
        model: a model, or a name, file or run folder for `oh.load`.
        images: one or several of: files, folders, patterns, videos, "camera", encoded bytes, uint8 arrays
            [height, width, 3], float tensors [3, height, width] in [0, 1], Pillow images. By default the
            image bundled with the named weights.
        out: a new or empty folder, or that of an earlier call, whose names are kept and files replaced.
        iterations, num_slots: the model's own by default; at least 1, at most 256 slots.
        restarts: number of restarts from different noise; the one with the lowest reconstruction error is
            kept. The model's own by default; must be 1 for fixed initial slots.
        merge_background: merge slots that extend across the image into one background
            (`nn.merge_background`); discovery models only.
        fit: "pad" (the whole image, its border repeated around it), "crop" (the central square; the label is
            -1 outside it) or "squash" (the whole image, aspect ratio changed). The model's own by default:
            "squash" if it was trained on squashed images (`clevr`), else "pad". No effect on square images.
        fine: also find small objects (of 0.1 to 1.6 % of the image), on a finer grid, in four times the time;
            `photos` only.
        batch_size: images per forward pass.
        skip_bad: skip images that cannot be read; their results hold the `error`.
        animate: write animations, which take most of the time.
        also: "arrays" (`NAME-arrays.npz`: soft masks, slots, attention, labels and other outputs),
            "cutouts" (`NAME-cutouts/slot-K.png`: the image with the soft mask of slot K as alpha).
        report: called with each result and the total number of images (0 if a video does not state it).

    Returns: the results, in the order of the images. `stream` yields them one at a time, for thousands of
        images or a video.

    Raises:
        ImageError: no image, or, without `skip_bad`, one that cannot be read.
        ValueError: an unsuitable model, a number out of range, or a folder `out` with other files.

    Example:
        >>> import objecthood as oh
        >>> (result,) = oh.predict("tetrominoes")  # the image bundled with these weights
        >>> result.labels.shape, result.attention.shape, result.warning
        ((35, 35), torch.Size([5, 4, 18, 18]), '')
        >>> results = oh.predict("tetrominoes", np.zeros((48, 64, 3), np.uint8), num_slots=6)
        >>> results[0].labels.shape, len(results[0].masks)
        ((48, 64), 6)
    """
    results = stream(
        model,
        images,
        out,
        iterations=iterations,
        num_slots=num_slots,
        restarts=restarts,
        merge_background=merge_background,
        fit=fit,
        fine=fine,
        batch_size=batch_size,
        skip_bad=skip_bad,
        animate=animate,
        also=also,
        report=report,
    )
    return list(results)


def stream(
    model: SlotModel | str | Path = hub.DEFAULT,
    images: Any = None,
    out: str | Path | None = None,
    *,
    iterations: int | None = None,
    num_slots: int | None = None,
    restarts: int | None = None,
    merge_background: bool = False,
    fit: Fit | None = None,
    fine: bool = False,
    batch_size: int = 16,
    skip_bad: bool = False,
    animate: bool = False,
    also: Sequence[str] = (),
    report: Report | None = None,
) -> Iterator[Result]:
    """`predict` as a generator, with the memory of one batch.

    Arguments are checked immediately; images are read when their results are requested.
    """
    if images is None:
        if not isinstance(model, str) or model not in hub.PRETRAINED:
            raise ValueError("these weights have no bundled example; pass `images`")
        images = hub.PRETRAINED[model].example
    if isinstance(model, str | Path):
        model = hub.load(model)  # type: ignore[assignment]  # refused below where it is another kind
    if not isinstance(model, SlotModel):
        raise ValueError(
            f"a {type(model).__name__} cannot predict; use a SlotModel or weights of `objecthood list "
            "weights`"
        )
    if model.modality == "motion":
        raise ValueError(
            "these weights need motion, and an image has none; use `oh.predict_video` with a video"
        )
    if model.device.type == "meta":
        raise ValueError("a model on the meta device has no weights; load them with `oh.load`")
    if fine:
        model = model.finer()
    if fit is not None and fit not in FITS:
        raise ValueError(f"`fit` (={fit!r}) must be one of {', '.join(FITS)}")
    how = _Settings(
        _in_range("iterations", model.iterations if iterations is None else iterations, limits.ITERATIONS),
        None if num_slots is None else _in_range("num_slots", num_slots, limits.SLOTS),
        _in_range("restarts", model.restarts if restarts is None else restarts, limits.RESTARTS),
        merge_background,
        fit,
    )
    if how.restarts > 1 and not model.restarts_differ:
        raise ValueError(
            f"`restarts` (={how.restarts}) must be 1 for these weights: their initial slots are fixed; "
            "omit it"
        )
    if merge_background and model.result_kind != "masks":
        raise ValueError("`merge_background` (=True) needs masks, and these weights predict none; omit it")
    batch_size = _in_range("batch_size", batch_size)
    check_extras(also, RESULTS[model.result_kind].extras)
    folder = None if out is None else ResultFolder(out)
    found = find_inputs(images, skip_bad=skip_bad)
    names: dict[Path, str] = {}
    if folder:
        found = _without_results(found, folder.path)
        folder.open()
        new = {image.path for image in found if image.in_memory}
        names = folder.choose({image.path: image.relative for image in found}, new)

    def save(result: Result, image: InputImage) -> None:
        if folder is None or result.error:
            return
        is_frame = image.source != image.path
        name = names[image.source]
        stem = folder.place(f"{name}/{image.relative.name}" if is_frame else name)
        result.write(stem, animate=animate and not is_frame, also=also)

    results = _run(model, found, how, 1 if model.any_size else batch_size, skip_bad, save, report)
    return results if folder is None else folder.closing(results)


class _Settings(NamedTuple):
    iterations: int
    num_slots: int | None
    restarts: int
    merge_background: bool
    fit: Fit | None


def _run(
    model: SlotModel,
    found: list[InputImage],
    how: _Settings,
    batch_size: int,
    skip_bad: bool,
    save: Callable[[Result, InputImage], None],
    report: Report | None,
) -> Iterator[Result]:
    counts = [count_frames(one.path) if _is_whole_video(one) else 1 for one in found] if report else [0]
    total = sum(counts) if all(counts) else 0
    was_training = model.training
    model.eval()
    try:
        for group in _groups(found, batch_size, skip_bad):
            results = iter(_predict_batch(model, [one for one in group if one[1] is not None], how))
            for image, content, error in group:
                failed = Result(image.path, image.relative, error=error)
                result = failed if content is None else next(results)
                result.in_memory = image.in_memory
                save(result, image)
                if report:
                    report(result, total)
                yield result
    finally:
        model.train(was_training)


def _predict_batch(
    model: SlotModel,
    group: list[_Read],
    how: _Settings,
) -> Iterator[Result]:
    """The results of images that were read."""
    if not group:
        return
    contents = [content for _, content, _ in group if content is not None]
    inputs, placements = zip(*(model.preprocess(content, how.fit) for content in contents), strict=True)
    images = torch.stack(inputs)
    same = np.zeros(len(images), np.int64)
    num_slots = model.num_slots if how.num_slots is None else how.num_slots
    noise = restart_noise(same, how.restarts, num_slots, model.slot_dim).to(model.device)
    with torch.no_grad():
        output = model.segment(images.to(model.device), how.num_slots, how.iterations, noise=noise)
    if how.merge_background:
        if output.masks is None or output.appearance is None:
            raise ValueError(
                "`merge_background` (=True) needs decoded slots, and these weights have no decoder; omit it"
            )
        masks, appearance = merge_background(output.masks, output.appearance)
        output = output._replace(masks=masks, appearance=appearance)
    output = output._replace(**{name: values.float().cpu() for name, values in output.found().items()})
    scores = model.anomaly_score(images, output)
    for index, ((source, _, _), placement) in enumerate(zip(group, placements, strict=True)):
        yield RESULTS[model.result_kind](
            source.path,
            source.relative,
            placement,
            source.read,
            images[index].clone(),
            {name: values[index].clone() for name, values in output.found().items()},
            warning=out_of_distribution.warning_for(
                {measure: values[index].item() for measure, values in scores.items()}, model.calibration
            ),
        )


def _groups(found: list[InputImage], batch_size: int, skip_bad: bool) -> Iterator[list[_Read]]:
    """Batches of up to `batch_size` images (fewer if they are large), each with its content or read error."""
    group: list[_Read] = []
    pixels = 0
    try:
        for image, content, error in _read_all(found, skip_bad):
            size = 0 if content is None else content.shape[0] * content.shape[1]
            if group and (len(group) == batch_size or pixels + size > MAX_PIXELS):
                yield group
                group, pixels = [], 0
            group.append((image, content, error))
            pixels += size
    except ImageError:  # what was read before gets its results
        if group:
            yield group
        raise
    if group:
        yield group


def _read_all(found: list[InputImage], skip_bad: bool) -> Iterator[_Read]:
    """Every image and frame with its content, or, with `skip_bad`, its read error."""
    for image in found:
        try:
            if _is_whole_video(image):
                for frame in open_frames(image):
                    yield frame, frame.read(), ""
            else:
                yield image, image.read(), ""
        except ImageError as problem:
            if not skip_bad:
                raise
            yield image, None, str(problem)


def _is_whole_video(image: InputImage) -> bool:
    return is_video(image.path) and os.path.isfile(image.path)


def _without_results(found: list[InputImage], out: Path) -> list[InputImage]:
    """Images except results of earlier calls; ValueError for any other image in the output folder."""
    inside, kept = os.path.join(os.path.realpath(out), ""), []
    for image in found:
        path = os.path.realpath(image.path)
        if not path.startswith(inside):
            kept.append(image)
        elif not (path.endswith(_OURS) or os.path.dirname(path).endswith(CUTOUTS)):
            raise ValueError(f"{image.path} is in the output folder {out}; use another output folder")
    if not kept:
        raise ImageError("there are no input images; name images, folders or patterns")
    return kept


def _in_range(name: str, value: int, most: int | None = None) -> int:
    """`value`, also one of NumPy, as an int; ValueError where it is none, or out of range."""
    if not isinstance(value, numbers.Integral) or value < 1 or (most and value > most):
        raise ValueError(
            f"`{name}` (={value!r}) must be a whole number, at least 1"
            + (f" and at most {most}" if most else "")
        )
    return int(value)
