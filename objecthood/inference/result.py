"""What a model sees in one picture, to look at, to save and to hand on.

`predict` makes them: `PredictedMasks` of a discovery model, `PredictedObjects` of a set predictor. Tensors
are the model's own output for this picture, on the CPU; the picture itself is read again from its file when
it is needed, so that many results find room in memory.
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
from objecthood.runtime.files import remove_link, replacing, staged
from objecthood.visualize.animation import attention_frames, save_animation
from objecthood.visualize.figures import attention_figure

SHOWN_SIDE = 320
"""Pixels: the height of a picture in a notebook."""
_NOWHERE = whole((0, 0))


class Animation:
    """Frames that move in a notebook and can be saved."""

    def __init__(self, frames: list[Image.Image], milliseconds: int = 100):
        self.frames, self.milliseconds = frames, milliseconds

    def save(self, path: str | Path) -> Path:
        """Write .webp (best), .png (exact), .gif, or a film, .mp4 (extra `video`; `ImageError` without it).

        ValueError where the name ends otherwise.
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
    """What became of one picture.

    Attributes:
        path: the picture, as it was found; of a video's frame "VIDEO#NUMBER", of a picture in memory a name
            alone ("picture-1").
        relative: its path below the folder that was named, or its name.
        size: (height, width) of the picture in pixels; (0, 0) where it could not be read.
        placement: where the picture lies in the model's input (`models.placement`); of masks,
            `placement.restore(masks)` has the picture's own size.
        image: float32 [3, rows, columns] in [0, 1], the model's input.
        error: why it was skipped, or "". What the model sees is then not there (ValueError).
        warning: says so where the picture is unlike what the weights were trained on, or "".
        files: what was written, by kind.
        in_memory: whether the picture has no file (an array, bytes, a camera): `save` then always gives it a
            new name.
    """

    endings: ClassVar[dict[str, str]] = {}
    """What `save` writes, and how the names end."""
    extras: ClassVar[tuple[str, ...]] = ("arrays",)
    """What `save` writes where it is asked for `also`."""
    kinds: ClassVar[tuple[str, ...]] = ("attention",)
    """What `plot` can draw, the default first."""

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
    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """The picture at its own size, 0..255."""
        assert self._read is not None or self.error
        return self._read() if self._read is not None else self._missing()

    @property
    def image(self) -> Float[Tensor, "3 rows columns"]:
        return self._image if self._image is not None else self._missing()

    @property
    def slots(self) -> Float[Tensor, "slots slot_dim"]:
        """What each slot holds."""
        return self._part("slots")

    @property
    def attention(self) -> Float[Tensor, "iterations slots rows columns"]:
        """The softmax over slots, of every iteration, on the encoder's grid."""
        return self._part("attention")

    def plot(self, kind: str = "") -> Image.Image:
        """A figure: by default the first of `kinds`; ValueError for one that is not among them."""
        kind = kind or self.kinds[0]
        if kind not in self.kinds:
            raise ValueError(f"`kind` (={kind!r}) must be one of {', '.join(self.kinds)}")
        return attention_figure(self.image, self.attention) if kind == "attention" else self._draw(kind)

    def animate(self, path: str | Path | None = None, *, hold: int = 6, between: int = 5) -> Animation:
        """Where each slot looks, iteration after iteration; shown in notebooks, written to `path` if given.

        `path` ends in .gif, .webp, .png or .mp4; `hold` and `between` are numbers of frames, 10 a second.
        """
        frames = attention_frames(self.image, self.attention, hold=hold, between=between)
        animation = Animation(frames)
        if path is not None:
            self.files["animation"] = animation.save(path)
        return animation

    def save(self, out: str | Path, *, animate: bool = False, also: Sequence[str] = ()) -> dict[str, Path]:
        """Write everything into the folder `out`, as `predict` does, and return the files by kind.

        `also` may name `extras`. ValueError where it names others, or `out` holds files that are not
        predictions.
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
        """Write everything beside `stem`, whatever is there, and return the files by kind."""
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
        """For notebooks: what is seen, in words and in pictures, self-contained."""
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
            raise ValueError(f"the model gives no {name}; it gives {', '.join(self._seen)}")
        return self._seen[name]

    def _missing(self) -> Any:
        raise ValueError(f"nothing was seen in {self.path}, which was skipped: {self.error}")

    @property
    def summary(self) -> str:
        """What is seen, in a few words."""
        return "nothing"

    def _shown(self) -> tuple[str, ...]:
        """The figures that a notebook shows."""
        return self.kinds[:1]

    def _draw(self, kind: str) -> Image.Image:
        raise NotImplementedError

    def _write(self, files: dict[str, Path]) -> None:
        raise NotImplementedError

    def _arrays(self) -> dict[str, np.ndarray]:
        """All that the model gave for this picture, and the picture as it saw it."""
        assert self._seen is not None
        return {name: part.numpy() for name, part in self._seen.items()} | {"image": self.image.numpy()}

    def _write_extra(self, extra: str, stem: Path) -> Path:
        """The file, or folder, that one of `extras` was written to."""
        file = remove_link(Path(f"{stem}-arrays.npz"))
        with replacing(file) as content:
            np.savez_compressed(content, **self._arrays())  # type: ignore[arg-type]  # names are ours
        return file


def check_extras(also: Sequence[str], known: Sequence[str]) -> None:
    """ValueError where something is asked for that is not known."""
    for extra in also:
        if extra not in known:
            raise ValueError(f"`also` (={extra!r}) must be of {', '.join(known)}")


def _as_html(picture: Image.Image, name: str) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return _embedded(content.getvalue(), "png", name)


def _embedded(content: bytes, kind: str, name: str) -> str:
    data = base64.b64encode(content).decode()
    style = f"max-height: {SHOWN_SIDE}px; max-width: 100%"
    return f'<img alt="{name}" src="data:image/{kind};base64,{data}" style="{style}">'
