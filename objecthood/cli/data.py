"""`objecthood data`: render scenes and convert published files."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Literal

from objecthood.cli.options import UsageError, parse
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """What to render."""

    kind: Literal["clevr"]
    """clevr: scenes modelled on CLEVR (the data set clevr-like)."""
    out: str = dataclasses.field(default="", metadata={"metavar": "FOLDER"})
    """Output folder (required); existing scenes are kept."""
    count: int = 6000
    """Number of scenes in the split."""
    objects: str = dataclasses.field(default="3-6", metadata={"metavar": "MIN-MAX"})
    """Number of objects in a scene, within 3 to 10."""
    seed: int = 0
    """Scene i depends only on seed, split, objects, background and i."""
    split: Literal["train", "validation", "test"] = "train"
    """Split; scenes of different splits are independent."""
    resolution: int = 128
    """Image side in pixels."""
    background: Literal["plain", "textured"] = "plain"
    """textured: textures on the background and on objects."""


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """What to convert."""

    source: str = dataclasses.field(metadata={"metavar": "FILE"})
    """A .tfrecords file of the multi_object_datasets release."""
    out: str = dataclasses.field(default="", metadata={"metavar": "FOLDER"})
    """Output folder (required); must not exist."""
    crop: bool = False
    """For CLEVR, keep only the paper's square crop."""
    resolution: int | None = None
    """Resize images to this side in pixels, as the reference does; unchanged by default."""
    max_scenes: int | None = None
    """Stop after this number of scenes."""
    skip_bad: bool = False
    """Skip damaged records and list them."""


def data(arguments: list[str]) -> int:
    """Create data sets: render clevr --out FOLDER, or convert FILE --out FOLDER.

    `objecthood data render --help` and `objecthood data convert --help` show the options.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        echo(f"usage: objecthood data {{{','.join(ACTIONS)}}} ...\n\n{inspect.getdoc(data)}")
        return 0
    action, *rest = arguments
    if action not in ACTIONS:
        raise UsageError(
            f"data has no action {action!r}; {did_you_mean(action, list(ACTIONS))} See objecthood data --help"
        )
    return ACTIONS[action](rest)


def render(arguments: list[str]) -> int:
    """Render scenes into a folder."""
    options = parse(RenderOptions, arguments, "data render", render)
    _need_out(options.out)
    low, dash, high = options.objects.partition("-")
    if not low.isdecimal() or (dash and not high.isdecimal()):
        raise UsageError(f"--objects {options.objects!r} must be a number or a range such as 3-6")
    from objecthood.data.clevr_render.clevr_like import render_dataset
    from objecthood.runtime.progress import RunProgress

    with RunProgress("render", options.count) as progress:
        folder = render_dataset(
            options.out,
            options.count,
            objects=(int(low), int(high or low)),
            seed=options.seed,
            resolution=options.resolution,
            background=options.background,
            split=options.split,
            progress=lambda done, total: progress.update(done, "scenes"),
            say=progress.say,
        )
    echo(f"{options.count} clevr-like scenes in {folder}")
    return 0


def convert(arguments: list[str]) -> int:
    """Convert a published file into a folder that loads without decoding."""
    options = parse(ConvertOptions, arguments, "data convert", convert)
    _need_out(options.out)
    from objecthood.data.published.multi_object_packed import convert as pack
    from objecthood.runtime.progress import RunProgress

    with RunProgress("convert", 100) as progress:
        manifest = pack(
            options.source,
            options.out,
            crop=options.crop,
            resolution=options.resolution,
            max_scenes=options.max_scenes,
            skip_bad=options.skip_bad,
            progress=lambda scenes, share: progress.update(int(100 * share), f"% read, {scenes} scenes"),
        )
    skipped = len(manifest["skipped"])
    echo(f"{manifest['num_scenes']} scenes of {manifest['variant']} in {options.out}, {skipped} skipped")
    return 1 if skipped else 0


ACTIONS: dict[str, Callable[[list[str]], int]] = {"render": render, "convert": convert}


def _need_out(out: str) -> None:
    if not out:
        raise UsageError("--out is missing; add the output folder: --out FOLDER")
