"""Read untrusted images as RGB arrays, with limits and one-line errors.

The command, the data sets and the demo read images only through this module. It imports NumPy and Pillow
only (and pillow-heif when it reads a HEIC file) and writes nothing.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import io
import itertools
import logging
import os
import re
import stat
import threading
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageCms

from objecthood.data.io import coded_sizes, heic
from objecthood.runtime import limits

# Decoded, 50 million pixels take 200 MB (Pillow holds four bytes a pixel). That covers full-frame cameras
# (45 million) and stops files of a few kilobytes that unpack to gigabytes. Raise it with `max_pixels`.
MAX_PIXELS = limits.IMAGE_PIXELS
# The largest honest file: MAX_PIXELS uncompressed, with four channels of 16 bits.
MAX_FILE_BYTES = limits.IMAGE_BYTES
# Formats opened, by Pillow's names (JPEG brings MPO, the double images of phones). Left out on purpose:
# formats that start other programs (EPS, PDF), and rare ones whose decoders see little testing (PSD, FLI).
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "JPEG2000", "AVIF")
# What `find_images` takes for an image in a folder. `read_image` looks at the content, never at the name.
SUFFIXES = frozenset(
    ".png .apng .jpg .jpeg .jpe .jfif .mpo .gif .webp .tif .tiff .bmp .dib "
    ".ppm .pgm .pbm .pnm .ico .jp2 .j2k .jpx .avif".split()
)
# Of HEIC, which is read where pillow-heif is installed (extra `heic`).
HEIC_SUFFIXES = frozenset(".heic .heif .hif".split())
# Videos and image formats that are not read here; `find_images` says how many of them it leaves out.
OTHER_SUFFIXES = frozenset(
    ".jxl .jxr .psd .xcf .svg .eps .pdf .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .exr .hdr "
    ".tga .pcx .dcm .npy .mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ogv .ts .mts .m2ts .3gp .wmv .flv".split()
)
# Files that mark a folder of results, and the format that each begins with.
RESULT_RECORDS = {
    "predictions.json": "objecthood-predictions-1",
    "video-predictions.json": "objecthood-video-predictions-1",
}
# EXIF 2.32, tag 0x0112: what to do to the stored image to see it upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACK = {
    Image.Transpose.ROTATE_90: Image.Transpose.ROTATE_270,
    Image.Transpose.ROTATE_270: Image.Transpose.ROTATE_90,
}
_HEIC_HINT = "pip install 'objecthood[heic]'"
# Version of pillow-heif, as in pyproject.toml: libheif 1.23.6. Up to 1.23.1, crafted images could run code.
_HEIC_LEAST = (1, 8, 1)
# Of pillow-heif: what is not needed is not opened; tiles are decoded one after the other.
_HEIC_OPTIONS = {
    "DECODE_THREADS": 0, "THUMBNAILS": False, "DEPTH_IMAGES": False, "AUX_IMAGES": False,
    "DISABLE_SECURITY_LIMITS": False,
}  # fmt: skip
# TIFF 6.0, tags 258 (bits per sample) and 262 (photometric interpretation; 0 = white is zero).
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
# `warnings.catch_warnings` swaps state of the whole process: two threads leaving it in the wrong order would
# switch Pillow's warnings off for good. Hence one image at a time within a process; others are unaffected.
_WARNINGS_LOCK = threading.Lock()
# Pillow logs some damage, which Python prints where logging is not set up. Where it is, logs still get it.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(ValueError):
    """An image cannot be read. One line: file, problem, what is allowed, remedy."""


class ImageTooLargeError(ImageError):
    """More pixels or bytes than are allowed."""


class ImageFormatError(ImageError):
    """Not an image, or an unsupported format."""


class NoImageError(ImageError):
    """A folder or pattern without images."""


class ImageWarning(UserWarning):
    """A warning about an image or video that was read: its name and the problem."""

    def __str__(self) -> str:
        return ": ".join(map(str, self.args))


@runtime_checkable
class Readable(Protocol):
    """An open binary file, or anything else with its `read`: an upload, `sys.stdin.buffer`."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; fewer only at the end."""


def read_image(
    source: str | os.PathLike[str] | bytes | Readable,
    *,
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    warn: bool = False,
) -> UInt8[np.ndarray, "height width 3"]:
    """Read one image as 8-bit sRGB, the way an image viewer shows it.

    The EXIF orientation is applied, transparency is laid over white, an embedded colour profile is converted
    to sRGB (a broken profile is ignored), and of an animation the first frame is taken. Of 16-bit colour,
    Pillow keeps the upper 8 bits; 16-bit grey is scaled by its range, 65535 -> 255 (12-bit: 4095 -> 255).
    32-bit integers are read as 16-bit where all values lie in 0..65535, floats as they are where all lie in
    [0, 1]; else both are stretched from their least to their greatest finite value (a constant image
    becomes black). Not-a-number becomes black, infinities become black and white. HEIC needs the extra
    `heic`: the primary image is taken, 10 bits become 8.

    Args:
        source: a path, the content itself as bytes, or a binary stream (read from where it stands).
        max_pixels: height x width allowed, checked from the file's header before anything is decoded.
        upright: apply the EXIF orientation; without it pixels come as they are stored (HEIC always upright).
        warn: give an `ImageWarning` of grey that is read by its range and uses less than a sixteenth of it
            (12-bit values in a 16-bit file, as of many medical images): it comes out almost black.

    Returns:
        A new, writable array; values 0..255.

    Raises:
        ImageError: missing, empty, too large, damaged, or not an image in one of `FORMATS`.

    Example:
        >>> read_image(b"P3 2 1 255  255 0 0  0 0 255").tolist()
        [[[255, 0, 0], [0, 0, 255]]]
    """
    name = _name_of(source)
    with _open_stream(source, name) as stream, _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            pixels, problem = _decode(stream, name, max_pixels, upright)
        except Exception as error:  # damaged data makes decoders raise nearly anything
            _release(error)
            if isinstance(error, ImageError):
                raise
            if isinstance(error, Image.DecompressionBombError):  # of plugins that check before they open
                raise _too_large(name, _one_line(error), max_pixels) from error
            problem = _one_line(error) or type(error).__name__
            raise ImageError(f"{name}: damaged image ({problem}); copy or download it again") from error
    if problem and warn:
        warnings.warn(ImageWarning(name, problem), stacklevel=2)
    return pixels


def read_orientation(source: str | os.PathLike[str] | bytes) -> int:
    """The EXIF orientation of an image, 1 to 8: 1 where it is upright as stored, does not say, or is HEIC.

    Raises:
        ImageError: as `read_image`, of what its header shows.
    """
    name = _name_of(source)
    with _open_stream(source, name) as stream, _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            return _orientation(_read_header(stream, name, MAX_PIXELS))
        except ImageError:
            raise
        except Exception as error:  # damaged data makes decoders raise nearly anything
            problem = _one_line(error) or type(error).__name__
            raise ImageError(f"{name}: damaged image ({problem}); copy or download it again") from error


def read_pillow(
    image: Image.Image, name: str = "Pillow image", *, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "height width 3"]:
    """8-bit sRGB of a Pillow image, as `read_image` of the file that it came from: upright, transparency over
    white, colours converted, 16 bits and floats scaled; with its `ImageWarning`. The image is not changed.

    Raises:
        ImageError: too large, without pixels, damaged, or closed.

    Example:
        >>> read_pillow(Image.new("I;16", (1, 1), 65535)).tolist()
        [[[255, 255, 255]]]
    """
    _check_size(*image.size, name, max_pixels)
    if not image.width or not image.height:
        raise ImageError(f"{name}: has no pixels ({image.width} x {image.height}); take another")
    with _WARNINGS_LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            picture, problem = _decoded(image)
            pixels = np.array(picture)
        except Exception as error:  # damaged data makes decoders raise nearly anything
            problem = _one_line(error) or type(error).__name__
            raise ImageError(f"{name}: damaged image ({problem}); open it again") from error
    if problem:
        warnings.warn(ImageWarning(name, problem), stacklevel=2)
    return pixels


def find_images(paths: Iterable[str | Path]) -> list[Path]:
    """List the image files in files, folders and glob patterns.

    A file is taken as it is, whatever its name. A folder gives all images below it by suffix (`suffixes`),
    sorted by path; hidden files and folders are left out, and linked folders are not entered. A name that
    does not exist is taken as a glob pattern (`**` included) and gives its images by suffix, sorted. Below
    a folder or pattern, results of our own (folders with a `predictions.json` of `predict`, run folders of
    `train`) are left out. An `ImageWarning` counts videos and images of formats that are not read here.

    Args:
        paths: file names, folder names or patterns, in any mix.

    Returns:
        Paths in the order asked for; one that comes up twice stays where it came first.

    Raises:
        ImageError: one of `paths` does not exist, or a folder cannot be listed.
        NoImageError: one of `paths` gives no image.

    Example:
        >>> find_images(["none/*.png"])
        Traceback (most recent call last):
        ...
        objecthood.data.io.images.ImageError: 'none/*.png': no such file, folder or pattern; ...
    """
    found: dict[str, Path] = {}
    for path in paths:
        for match in _expand(str(path)):
            found.setdefault(os.path.abspath(match), match)
    return list(found.values())


def resize_image(
    image: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_height new_width 3"]:
    """Resize the whole image to exactly `size`. Proportions are not kept: nothing is cut off or padded.

    Bilinear, and antialiased when shrinking (Pillow widens the filter with the factor), so that thin
    structures fade instead of flickering.

    Args:
        image: RGB, values 0..255.
        size: (height, width) in pixels, each at least 1.

    Raises:
        ValueError: a side of `size` is below 1.

    Example:
        >>> resize_image(np.full((4, 6, 3), 7, dtype=np.uint8), (2, 2)).shape
        (2, 2, 3)
    """
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _name_of(source: str | os.PathLike[str] | bytes | Readable) -> str:
    """Name a source within one short line: `repr` keeps letters of any script and escapes line breaks."""
    if isinstance(source, bytes):
        return f"image of {len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        return repr(name if len(name) <= 1000 else f"{name[:200]}...{name[-200:]}")
    return f"stream {getattr(source, 'name', 'without a name')!r}"


def _release(error: BaseException | None) -> None:
    """Let go of what the frames of an error, and of those that led to it, hold: the decoded pixels.

    Otherwise, whoever keeps the error (a list of what was skipped, a reference cycle) keeps the image.
    """
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _too_large(name: str, size: str, max_pixels: int) -> ImageError:
    return ImageTooLargeError(
        f"{name}: {size}; at most {max_pixels} are allowed; shrink it or raise max_pixels"
    )


def _open_stream(source: str | os.PathLike[str] | bytes | Readable, name: str) -> coded_sizes.Stream:
    """Open a source as a seekable stream of known, allowed length; the caller closes it."""
    try:
        if isinstance(source, str | os.PathLike):
            status = os.stat(source)
            length, is_regular = status.st_size, stat.S_ISREG(status.st_mode)
            stream = open(source, "rb") if is_regular else io.BytesIO()  # noqa: SIM115 (the caller closes it)
        else:
            content = source if isinstance(source, bytes) else source.read(MAX_FILE_BYTES + 1)
            length, is_regular, stream = len(content), True, io.BytesIO(content)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        problem = getattr(error, "strerror", None) or _one_line(error)
        raise ImageError(f"{name}: cannot be opened ({problem}); check its name and permissions") from error
    if is_regular and 0 < length <= MAX_FILE_BYTES:
        return stream
    stream.close()
    if not is_regular:  # a pipe would block, a device would never end
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise ImageError(f"{name}: is {kind}; name an image file")
    if length == 0:
        raise ImageError(f"{name}: is empty (0 bytes); copy or download it again")
    raise ImageTooLargeError(f"{name}: too many bytes; at most {MAX_FILE_BYTES} are allowed; save it smaller")


def _read_header(stream: coded_sizes.Stream, name: str, max_pixels: int) -> Image.Image:
    """Open an image without decoding it, and check its size.

    Does what `Image.open(formats=FORMATS)` does, less Pillow's own limit: that only warns up to twice its
    value, and beyond it hides the size. The empty file name keeps Pillow from memory-mapping the user's file,
    which may change meanwhile.
    """
    if heic.is_heic(stream):
        return _open_heic(stream, name, max_pixels)
    Image.init()
    stream.seek(0)
    prefix = stream.read(16)
    for image_format in FORMATS:
        factory, accepts = Image.OPEN[image_format]
        if accepts is None or accepts(prefix) is not True:  # a string: recognised, but this Pillow lacks it
            continue
        _check_before(image_format, stream, name, max_pixels)
        stream.seek(0)
        image = factory(stream, "")
        _check_size(*image.size, name, max_pixels)
        _check_after(image, stream, name, max_pixels)
        return image
    allowed = ", ".join((*FORMATS, "HEIC"))
    problem = f"not a readable image, begins with {prefix!r}"
    raise ImageFormatError(f"{name}: {problem}; allowed are {allowed}; convert it")


def _open_heic(stream: coded_sizes.Stream, name: str, max_pixels: int) -> Image.Image:
    """Open the primary image of a HEIC file; nothing is registered in Pillow."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageFormatError(f"{name}: HEIC images need pillow-heif; {_HEIC_HINT}") from error
    version = pillow_heif.__version__
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < _HEIC_LEAST:
        needed = ".".join(map(str, _HEIC_LEAST))
        problem = f"HEIC images need pillow-heif {needed} or newer, with its security fixes, not {version}"
        raise ImageFormatError(f"{name}: {problem}; {_HEIC_HINT}")
    try:
        content, sizes = heic.primary_image(stream)
    except heic.UnsupportedError as error:
        problem = f"a HEIC file of {error}; only an HEVC image or a grid of them is read"
        raise ImageFormatError(f"{name}: {problem}; save it as JPEG") from error
    for size, coded, _ in sizes:
        _check_size(*size, name, max_pixels)
        _check_size(*coded, name, 4 * max_pixels)  # small ones are coded in blocks of 64
    passes = sum(width * height * times for _, (width, height), times in sizes)
    if passes > limits.HEIC_PASSES * max_pixels:
        raise _too_large(name, f"HEVC slices of {passes} pixels in all", limits.HEIC_PASSES * max_pixels)
    with _heic_options(pillow_heif.options):
        image: Image.Image = pillow_heif.HeifImageFile(io.BytesIO(content), "")
    _check_size(*image.size, name, max_pixels)
    return image


@contextlib.contextmanager
def _heic_options(options: ModuleType) -> Iterator[None]:
    """Options of pillow-heif as `_HEIC_OPTIONS` while a file is opened; `_WARNINGS_LOCK` is held."""
    before = {name: getattr(options, name) for name in _HEIC_OPTIONS}
    vars(options).update(_HEIC_OPTIONS)
    try:
        yield
    finally:
        vars(options).update(before)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise _too_large(name, f"{width} x {height} = {width * height} pixels", max_pixels)


def _check_before(image_format: str, stream: coded_sizes.Stream, name: str, max_pixels: int) -> None:
    """Check sizes that a decoder would use and that Pillow does not tell, or tells after decoding."""
    if image_format == "ICO":
        _check_size(*coded_sizes.icon_size(stream), name, max_pixels)
    elif image_format == "AVIF":
        sizes = coded_sizes.coded_sizes(stream)
        for size, largest in sizes:
            _check_size(*size, name, max_pixels)
            # Encoders state each side in as few bits as it needs, so at most twice as large a side fits.
            _check_size(*largest, name, 4 * max_pixels)
        if sum(width * height for (width, height), _ in sizes) > 4 * max_pixels:  # image, alpha, thumbnails
            raise _too_large(name, f"{len(sizes)} coded images", max_pixels)


def _check_after(image: Image.Image, stream: coded_sizes.Stream, name: str, max_pixels: int) -> None:
    """Check what an opened file asks of its decoder beyond its size: tiles of a TIFF, scans of a JPEG, run
    lengths of a BMP."""
    if image.format == "TIFF":
        width, height = coded_sizes.tile_size(image) or (0, 0)
        if width * height > limits.TILE_PIXELS:
            raise ImageTooLargeError(
                f"{name}: has tiles of {width} x {height} = {width * height} pixels; at most "
                f"{limits.TILE_PIXELS} are allowed; save it with smaller tiles"
            )
    elif image.format == "BMP" and coded_sizes.is_run_length(image):
        _check_size(*image.size, f"{name}: in run-length code", min(max_pixels, limits.RUN_LENGTH_PIXELS))
    elif image.format in ("JPEG", "MPO"):
        most = max(1, min(limits.JPEG_SCANS, limits.JPEG_SCAN_PIXELS // (image.width * image.height)))
        place = stream.tell()
        if coded_sizes.count_scans(stream, most) > most:
            raise ImageTooLargeError(
                f"{name}: has more than {most} scans of {image.width} x {image.height} pixels; at most "
                f"{limits.JPEG_SCANS} and {limits.JPEG_SCAN_PIXELS} pixels in all are allowed; save it again"
            )
        stream.seek(place)


def _decode(
    stream: coded_sizes.Stream, name: str, max_pixels: int, upright: bool
) -> tuple[UInt8[np.ndarray, "height width 3"], str]:
    """The image of a stream, and what may be wrong with it, or "". No frame above holds an image."""
    image = _read_header(stream, name, max_pixels)
    picture, problem = _decoded(image, upright, name, max_pixels)
    image.close()
    return np.array(picture), problem


def _decoded(
    image: Image.Image, upright: bool = True, name: str = "", max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, str]:
    """An image of any mode, upright or as stored, as 8-bit sRGB; and what may be wrong with it, or ""."""
    before = _orientation(image) if image.format == "TIFF" else 1  # of PNG, asking decodes
    tiles = getattr(image, "tile", None)  # gone once it is decoded
    rawmode = str(tiles[0][3]) if tiles else ""
    image.load()
    _check_size(*image.size, name, max_pixels)  # a decoder may have found another size than the header's
    picture, after = _flatten_to_srgb(image, rawmode), _orientation(image)
    if upright and after in _UPRIGHT:
        picture = picture.transpose(_UPRIGHT[after])
    if not upright and before != after and before in _UPRIGHT:  # Pillow turns TIFF by itself
        turned = _UPRIGHT[before]
        picture = picture.transpose(_BACK.get(turned, turned))
    return picture, _problem(image)


def _flatten_to_srgb(image: Image.Image, rawmode: str = "") -> Image.Image:
    """Decoded image of any mode -> mode RGB in sRGB, transparency over white."""
    profile = image.info.get("icc_profile")
    alpha = _opaque_but_one_colour(image, rawmode)
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(_scale_grey(image))
    if image.mode == "La":  # premultiplied grey: the only way out that Pillow knows
        image = image.convert("LA")
    if alpha is None and image.has_transparency_data:
        whole = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
        alpha = whole.getchannel("A")
    usable = profile if isinstance(profile, bytes) else b""  # a damaged TIFF may hold one of another type
    colour = _convert_profile(image, usable) if usable else image.convert("RGB")
    if alpha is not None:  # white is laid over what is transparent, in place: no further image is held
        colour.paste((255, 255, 255), (0, 0), ImageChops.invert(alpha))
    return colour


def _opaque_but_one_colour(image: Image.Image, rawmode: str) -> Image.Image | None:
    """Opacity of a PNG whose tRNS chunk names one transparent colour, as the file stores it.

    Pillow compares that colour with pixels which it has brought to 8 bits, so that it finds none where the
    file has 16, 2 or 4 bits. None where there is no such colour, or it is an index of a palette.
    """
    key = image.info.get("transparency")
    if not isinstance(key, int | tuple) or image.mode not in ("I", "I;16", "I;16B", "L", "RGB"):
        return None
    if image.mode == "RGB" and isinstance(key, tuple) and ("16" in rawmode or max(key) > 255):
        key = tuple(part >> 8 for part in key)
    elif image.mode == "L" and isinstance(key, int):
        key *= {"L;2": 85, "L;4": 17}.get(rawmode, 1)
    differs = np.asarray(image) != np.asarray(key)
    opaque = differs if differs.ndim == 2 else differs.any(axis=-1)
    return Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8))


def _scale_grey(image: Image.Image) -> UInt8[np.ndarray, "height width"]:
    """Grey of 16 bits, 32 bits or floats -> 8 bits; see `read_image` for the ranges."""
    values, low, high, full = _range(image)
    if low >= 0 and high <= full:
        low, high = 0.0, full
    scaled = np.clip(values, low, high).astype(np.float64)
    scaled -= low
    scaled *= 255 / ((high - low) or 1.0)
    grey = np.rint(scaled, out=scaled).astype(np.uint8)
    return 255 - grey if _is_inverted(image) else grey  # Pillow inverts up to 8 bits only


def _range(image: Image.Image) -> tuple[np.ndarray, float, float, float]:
    """Values of grey of 16 or more bits, their least and greatest, and the greatest of their kind."""
    values, full = np.asarray(image), 65535.0
    if image.mode == "F":
        values, full = np.where(np.isnan(values), -np.inf, values), 1.0
    elif getattr(image, "tag_v2", {}).get(_TIFF_BITS) == (12,):
        full = 4095.0
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, full)
    return values, low, high, full


def _is_inverted(image: Image.Image) -> bool:
    return getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == 0


def _problem(image: Image.Image) -> str:
    """What may be wrong with a decoded image, or ""."""
    if (image.mode == "F" or image.mode.startswith("I")) and not _is_inverted(image):
        _, low, high, full = _range(image)
        if low >= 0 and 0 < high < full / 16:
            return f"almost black: less than a sixteenth of the range 0 to {full:g} is used; rescale it"
    return ""


def _convert_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert colours from an embedded ICC profile to sRGB; leave them where it is broken or does not fit."""
    plain = image if image.mode == "CMYK" else image.convert("RGB")
    flags = ImageCms.Flags.NONE
    try:
        source, target = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
        if source.profile.xcolor_space == "GRAY" and image.mode in ("1", "L", "LA"):
            # Little CMS's shortcut for grey misses dark values by up to 10 of 255.
            plain, flags = image.convert("L"), ImageCms.Flags.NOOPTIMIZE
        converted = ImageCms.profileToProfile(plain, source, target, outputMode="RGB", flags=flags)
        assert converted is not None  # it is only where an image is converted in place
        return converted
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation. (Of TIFF, Pillow applies it while decoding, and takes the tag away. Of HEIC, the
    decoder applies what the file's own boxes say, and EXIF only repeats it.)"""
    if image.format == "HEIF":
        return 1
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged EXIF raises nearly anything; the pixels may still be whole
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _expand(path: str) -> list[Path]:
    """One file, folder or pattern -> its images, sorted."""
    if os.path.isfile(path):
        return [Path(path)]
    if os.path.isdir(path) and holds_results(path):
        raise NoImageError(f"{path!r}: holds results of an earlier run, no images to look at; name another")
    matches = [path] if os.path.isdir(path) else glob.glob(path, recursive=True)
    found = []
    for match in matches if os.path.isdir(path) else without_results(matches, path):
        found += files_below(match) if os.path.isdir(match) else [Path(match)]
    allowed = suffixes()
    pictures = [match for match in found if match.suffix.lower() in allowed]
    left_out = (OTHER_SUFFIXES | HEIC_SUFFIXES) - allowed
    others = Counter(match.suffix.lower() for match in found if match.suffix.lower() in left_out)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
    hint = f"; for HEIC, {_HEIC_HINT}" if HEIC_SUFFIXES & others.keys() else ""
    if pictures:
        if counts:
            warnings.warn(ImageWarning(repr(path), f"left out {counts}, not read here{hint}"), stacklevel=3)
        return pictures
    if not matches:
        raise ImageError(f"{path!r}: no such file, folder or pattern; {what_to_do(path)}")
    among = f"{len(found)} files" + (f" ({counts})" if counts else "")
    raise NoImageError(f"{path!r}: no image among {among}; images end in {' '.join(sorted(allowed))}{hint}")


def suffixes() -> frozenset[str]:
    """`SUFFIXES`, with those of HEIC where the extra `heic` is installed."""
    return SUFFIXES | HEIC_SUFFIXES if reads_heic() else SUFFIXES


def reads_heic() -> bool:
    """Whether pillow-heif is installed. It is not imported."""
    return importlib.util.find_spec("pillow_heif") is not None


def what_to_do(path: str) -> str:
    """About a name that leads to no file."""
    if re.match(r"[a-z][a-z0-9+.-]+:/", path, re.IGNORECASE):
        return "addresses are not opened; download it and name the file"
    return "check the spelling"


def holds_results(folder: str | os.PathLike[str]) -> bool:
    """Whether `predict` or `train` wrote this folder; what lies in it is not taken for images."""
    for name, kind in RESULT_RECORDS.items():
        try:
            with open(os.path.join(folder, name), "rb") as file:
                beginning = file.read(200)
        except OSError:
            continue
        if re.match(rb'\s*\{\s*"format":\s*"%b"' % re.escape(kind.encode()), beginning):
            return True
    return all(os.path.isfile(os.path.join(folder, name)) for name in ("recipe.json", "metrics.jsonl"))


def without_results(matches: list[str], pattern: str) -> list[str]:
    """Matches of a pattern, sorted, less those in folders of results (`holds_results`) below its fixed
    beginning."""
    root = Path(*itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    known: dict[Path, bool] = {}

    def is_result(match: Path) -> bool:
        for folder in itertools.takewhile(lambda folder: folder != root, [match, *match.parents]):
            if folder not in known:
                known[folder] = folder.is_dir() and holds_results(folder)
            if known[folder]:
                return True
        return False

    return [match for match in sorted(matches) if not is_result(Path(match))]


def files_below(folder: str | os.PathLike[str]) -> list[Path]:
    """All files below a folder, sorted, without hidden ones (as `._photo.jpg`, which is no image) and
    without results of our own."""

    def refuse(error: OSError) -> None:  # by default `os.walk` leaves out the folder without a word
        problem = f"{error.filename!r}: cannot be listed ({error.strerror})"
        raise ImageError(f"{problem}; check permissions") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not holds_results(os.path.join(place, name))
        ]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)
