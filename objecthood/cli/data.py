"""`objecthood data`: render scenes, and pack published files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

from objecthood.cli.options import UsageError, parse
from objecthood.runtime.spelling import did_you_mean
from objecthood.runtime.terminal import echo


@dataclasses.dataclass(frozen=True)
class RenderOptions:
    """What is rendered."""

    kind: Literal["clevr"]
    """clevr: scenes after CLEVR's rules, called clevr-like."""
    out: str = ""
    """Folder to write to, which must be named; scenes that are there already are kept."""
    count: int = 6000
    """Scenes of the split."""
    objects: str = "3-6"
    """Fewest and most objects in a scene, within 3 to 10."""
    seed: int = 0
    """Scene i is a function of seed, split, objects, background and i."""
    split: Literal["train", "validation", "test"] = "train"
    """Splits are independent of one another."""
    resolution: int = 128
    """Side of the images, in pixels."""
    background: Literal["plain", "textured"] = "plain"
    """textured: patterns on the ground and on the objects."""


@dataclasses.dataclass(frozen=True)
class ConvertOptions:
    """What is packed."""

    source: str
    """A .tfrecords file of the multi_object_datasets release."""
    out: str = ""
    """Folder to make, which must be named."""
    crop: bool = False
    """Of CLEVR, keep the paper's square alone."""
    resolution: int | None = None
    """Resize to this many pixels a side, as the reference does; as stored unless named."""
    max_scenes: int | None = None
    """Stop after so many."""
    skip_bad: bool = False
    """Pass over damaged records, and list them."""


def data(arguments: list[str]) -> int:
    """Make data: render clevr --out FOLDER, or convert FILE --out FOLDER.

    `objecthood data render --help` and `objecthood data convert --help` show the options.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        echo(f"usage: objecthood data {{{','.join(ACTIONS)}}} ...\n\n{data.__doc__}")
        return 0
    action, *rest = arguments
    if action not in ACTIONS:
        raise UsageError(
            f"unknown action {action!r} of data; {did_you_mean(action, list(ACTIONS))} objecthood data --help"
        )
    return ACTIONS[action](rest)


def render(arguments: list[str]) -> int:
    """Render scenes into a folder."""
    options = parse(RenderOptions, arguments, "data render", render.__doc__ or "")
    _need_out(options.out)
    low, dash, high = options.objects.partition("-")
    if not low.isdigit() or (dash and not high.isdigit()):
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
    """Pack a published file into a folder that loads at once."""
    options = parse(ConvertOptions, arguments, "data convert", convert.__doc__ or "")
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
        raise UsageError("--out is missing; name the folder to write to: --out FOLDER")
