"""The result of one image: base class of `PredictedMasks` and `PredictedObjects`.

Tensors are the model's outputs for this image, on the CPU. The image is read again from its file when needed,
to save memory.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from objecthood.data.io.video_file import VideoWriter
from objecthood.inference.result_folder import ResultFolder
from objecthood.models.placement import Placement, whole
from objecthood.runtime import renamed
from objecthood.runtime.files import remove_link, replacing, staged
from objecthood.visualize.animation import attention_frames, save_animation
from objecthood.visualize.figures import attention_figure

SHOWN_SIDE = 320
"""Height of an image in a notebook, in pixels."""
_NOWHERE = whole((0, 0))


class Animation:
    """An animation, for notebooks and files."""

    def __init__(self, frames: list[Image.Image], milliseconds: int = 100):
        self.frames, self.milliseconds = frames, milliseconds

    def save(self, path: str | Path) -> Path:
        """Write .webp (recommended), .png (lossless), .gif or .mp4 (extra `video`; `ImageError` without it).

        Raises ValueError for another suffix.
        """
        if Path(path).suffix.lower() != ".mp4":
            return save_animation(self.frames, path, self.milliseconds)
        with VideoWriter(path, self.frames[0].size[::-1], Fraction(1000, self.milliseconds)) as film:
            for frame in self.frames:
                film.write(np.asarray(frame.convert("RGB")))
        return Path(path)

    def _repr_html_(self) -> str:
        content = io.BytesIO()
        first, *rest = self.frames
        first.save(content, "WEBP", save_all=True, append_images=rest, duration=self.milliseconds, loop=0)
        return _embedded(content.getvalue(), "webp", "attention, iteration by iteration")


class Result:
    """The result of one image.

    Attributes:
        path: path of the image; "VIDEO#NUMBER" for a frame, a name such as "image-1" for an image in memory.
        relative: path relative to the input folder, or the file name.
        size: (height, width) of the image in pixels; (0, 0) if it could not be read.
        placement: region of the image in the model's input (`models.placement`);
            `placement.restore(masks)` resizes masks to the image.
        image: float32 [3, rows, columns] in [0, 1], the model's input.
        error: why the image was skipped, or "". Outputs of a skipped image raise ValueError.
        warning: out-of-distribution warning, or "".
        files: written files by kind.
        in_memory: whether the image has no file (an array, bytes, a camera); `save` then chooses a new name.
    """

    endings: ClassVar[dict[str, str]] = {}
    """Suffixes of the files that `save` writes, by kind."""
    extras: ClassVar[tuple[str, ...]] = ("arrays",)
    """Values of `also` in `save`."""
    kinds: ClassVar[tuple[str, ...]] = ("attention",)
    """Figures that `plot` can draw, the default first."""

    def __init__(
        self,
        path: Path,
        relative: Path,
        placement: Placement = _NOWHERE,
        read: Callable[[], UInt8[np.ndarray, "_ _ 3"]] | None = None,
        image: Tensor | None = None,
        seen: dict[str, Tensor] | None = None,
        *,
        warning: str = "",
        error: str = "",
    ):
        self.path, self.relative, self.placement = path, relative, placement
        self.warning, self.error = warning, error
        self.files: dict[str, Path] = {}
        self._read, self._image, self._seen = read, image, seen
        self.in_memory = False

    @property
    def size(self) -> tuple[int, int]:
        return self.placement.size

    @property
    def pixels(self) -> UInt8[np.ndarray, "height width 3"]:
        """The image at its own size, 0 to 255."""
        assert self._read is not None or self.error
        return self._read() if self._read is not None else self._missing()

    picture = renamed.attribute("picture", "pixels")

    @property
    def image(self) -> Float[Tensor, "3 rows columns"]:
        return self._image if self._image is not None else self._missing()

    @property
    def slots(self) -> Float[Tensor, "slots slot_dim"]:
        """The slot vectors."""
        return self._part("slots")

    @property
    def attention(self) -> Float[Tensor, "iterations slots rows columns"]:
        """Attention of every iteration on the feature grid; sums to 1 over slots."""
        return self._part("attention")

    def plot(self, kind: str = "") -> Image.Image:
        """A figure, one of `kinds` (the first by default); ValueError for another."""
        kind = kind or self.kinds[0]
        if kind not in self.kinds:
            raise ValueError(f"`kind` (={kind!r}) must be one of {', '.join(self.kinds)}")
        return attention_figure(self.image, self.attention) if kind == "attention" else self._draw(kind)

    def animate(self, path: str | Path | None = None, *, hold: int = 6, between: int = 5) -> Animation:
        """An animation of the attention over iterations, also written to `path` (.gif, .webp, .png or .mp4).

        `hold` and `between` are numbers of frames per iteration and per transition, at 10 frames per second.
        """
        frames = attention_frames(self.image, self.attention, hold=hold, between=between)
        animation = Animation(frames)
        if path is not None:
            self.files["animation"] = animation.save(path)
        return animation

    def save(self, out: str | Path, *, animate: bool = False, also: Sequence[str] = ()) -> dict[str, Path]:
        """Write all results into the folder `out`, as `predict` does, and return the files by kind.

        `also` lists `extras`. Raises ValueError for others, or if `out` holds files that are not predictions.
        """
        if self.error:
            self._missing()
        check_extras(also, self.extras)
        folder = ResultFolder(out)
        folder.open()
        try:
            new = [self.path] if self.in_memory else []
            (name,) = folder.choose({self.path: self.relative}, new).values()
            return self.write(folder.place(name), animate=animate, also=also)
        finally:
            folder.close()

    def write(self, stem: Path, *, animate: bool = False, also: Sequence[str] = ()) -> dict[str, Path]:
        """Write all results with names starting with `stem`, replacing files, and return the files by
        kind."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        self.files = {kind: remove_link(Path(f"{stem}{ending}")) for kind, ending in self.endings.items()}
        self._write(self.files)
        for extra in also:
            self.files[extra] = self._write_extra(extra, stem)
        if animate:
            self.files["animation"] = remove_link(Path(f"{stem}-attention.gif"))
            with staged(self.files["animation"]) as file:
                self.animate().save(file)
        return self.files

    def __repr__(self) -> str:
        what = self.error or self.summary
        return f"<{type(self).__name__} of {self.path}: {what}{'; ' if self.warning else ''}{self.warning}>"

    def _repr_html_(self) -> str:
        """Summary and figures for notebooks, as self-contained HTML."""
        lines = [f"<b>{html.escape(self.path.name)}</b>: {html.escape(self.error or self.summary)}"]
        if self.warning:
            lines.append(f"<b>Warning:</b> {html.escape(self.warning)}")
        if not self.error:
            lines += [_as_html(self.plot(kind), kind) for kind in self._shown()]
        return "".join(f"<div>{line}</div>" for line in lines)

    def _part(self, name: str) -> Any:
        if self._seen is None:
            return self._missing()
        if name not in self._seen:
            raise ValueError(f"the model has no output {name}; it has {', '.join(self._seen)}")
        return self._seen[name]

    def _missing(self) -> Any:
        raise ValueError(f"{self.path} was skipped and has no results: {self.error}")

    @property
    def summary(self) -> str:
        """A short summary."""
        return "no objects"

    def _shown(self) -> tuple[str, ...]:
        """The figures shown in a notebook."""
        return self.kinds[:1]

    def _draw(self, kind: str) -> Image.Image:
        raise NotImplementedError

    def _write(self, files: dict[str, Path]) -> None:
        raise NotImplementedError

    def _arrays(self) -> dict[str, np.ndarray]:
        """All outputs for this image, and the model's input."""
        assert self._seen is not None
        return {name: part.numpy() for name, part in self._seen.items()} | {"image": self.image.numpy()}

    def _write_extra(self, extra: str, stem: Path) -> Path:
        """Write one of `extras`; returns its file or folder."""
        file = remove_link(Path(f"{stem}-arrays.npz"))
        with replacing(file) as content:
            np.savez_compressed(content, **self._arrays())  # type: ignore[arg-type]  # names are ours
        return file


def check_extras(also: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError for an unknown value of `also`."""
    for extra in also:
        if extra not in known:
            raise ValueError(f"`also` (={extra!r}) must be one of {', '.join(known)}")


def _as_html(figure: Image.Image, name: str) -> str:
    content = io.BytesIO()
    figure.save(content, "PNG")
    return _embedded(content.getvalue(), "png", name)


def _embedded(content: bytes, kind: str, name: str) -> str:
    data = base64.b64encode(content).decode()
    style = f"max-height: {SHOWN_SIDE}px; max-width: 100%"
    return f'<img alt="{name}" src="data:image/{kind};base64,{data}" style="{style}">'
