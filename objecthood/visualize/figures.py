"""Figures of predictions: overlays, the slot figure, the attention figure, palette images.

Functions take tensors with channels first and values in [0, 1], and return Pillow images. Slot k has the same
colour everywhere. The attention figure follows Locatello et al. 2020, Figure 3; `animation.py` animates it.
"""

import colorsys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

# The first eight keep a CIELAB distance of at least 25 from each other for normal, protanope and
# deuteranope vision (simulated after Machado et al. 2009), and a lightness of 45 to 92, for contrast to
# black and white.
BASE_COLORS = (
    (0x3A, 0x57, 0xFF),  # blue
    (0xE8, 0x88, 0x1A),  # orange
    (0x25, 0xC0, 0x85),  # green
    (0xCC, 0x2C, 0x3A),  # red
    (0xFF, 0xE9, 0x70),  # yellow
    (0x35, 0x9E, 0xFF),  # sky
    (0xE6, 0xAE, 0xE4),  # pink
    (0x70, 0x76, 0x8A),  # slate
)
PAPER = (0x15, 0x17, 0x1C)  # figure background
INK = (0xD7, 0xDA, 0xE0)
CHEQUER = (0x2F, 0x24)  # the two greys of transparent regions
MARGIN, GAP, BAR = 20, 8, 3  # pixels: around a figure, between its cells, thickness of a colour bar
TEXT_SIZE = 13  # pixels
STRONG = 0.7  # opacity of a segmentation next to the plain image
BAND = 256  # rows of a large image that are tinted at once, to save memory
NAMED = 640  # pixels: the smallest side of an image with room for ten names
LEGIBLE = 96  # pixels: the smallest legible side of a cell
COLUMNS = 11  # of `masks_figure`, at most
LARGEST_CELL = 160  # pixels: the shorter side of a cell of `masks_figure`, at most


def slot_colors(num_slots: int) -> UInt8[np.ndarray, "slots 3"]:
    """The colour of each slot, independent of `num_slots`: RGB in 0..255, shape [num_slots, 3].

    Eight colours are fixed; further hues advance by the golden ratio, so that they never repeat.

    >>> slot_colors(2).tolist()
    [[58, 87, 255], [232, 136, 26]]
    """
    colors: list[tuple[int, ...]] = list(BASE_COLORS)
    for index in range(len(colors), num_slots):
        hue = index * 0.6180339887 % 1.0
        saturation, value = ((0.85, 0.65), (0.45, 0.95), (0.65, 0.80))[index % 3]
        colors.append(tuple(round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value)))
    return np.array(colors[:num_slots], dtype=np.uint8).reshape(-1, 3)


def overlay(
    image: Float[Tensor, "*batch 3 height width"],
    masks: Float[Tensor, "*batch slots rows columns"] | Integer[Tensor, "*batch rows columns"],
    *,
    opacity: float = 0.5,
    contours: bool = True,
) -> Image.Image | list[Image.Image]:
    """Tint every pixel with the colour of its slot and draw the borders between slots.

    Args:
        image: values in [0, 1]; one image, or a batch.
        masks: soft masks, resized bilinearly before the argmax over slots; or integer labels, of which
            negative ones (ignored) are not tinted. Any resolution.
        opacity: of the tint, 0 to 1.
        contours: whether to draw borders, in full colour.

    Returns: an image of the size of `image`, or a list of them for a batch.

    >>> image = overlay(torch.zeros(3, 8, 8), torch.ones(8, 8, dtype=torch.int64), opacity=1.0)
    >>> image.size, image.getpixel((4, 4))
    ((8, 8), (232, 136, 26))
    """
    if image.ndim == 4:
        pairs = zip(image, masks, strict=True)
        return [overlay_one(one, its, opacity, contours) for one, its in pairs]
    return overlay_one(image, masks, opacity, contours)


def overlay_one(image: Tensor, masks: Tensor, opacity: float, contours: bool = True) -> Image.Image:
    """`overlay` of a single image, which may also be uint8 to save memory."""
    labels = _label_map(masks, (image.shape[-2], image.shape[-1]))
    colors = torch.from_numpy(slot_colors(max(int(labels.max()) + 1, 1)) / 255.0).float()
    reach = max(1, round(min(labels.shape) / 160))  # wider contours in large images
    tinted = Image.new("RGB", (labels.shape[1], labels.shape[0]))
    for top in range(0, len(labels), BAND):
        rows = slice(top, top + BAND)
        strength = torch.full(labels[rows].shape, opacity)
        if contours:
            first = max(0, top - reach)
            near = _borders(labels[first : top + BAND + reach], reach)
            strength[near[top - first :][:BAND]] = 1.0
        strength[labels[rows] < 0] = 0.0
        tint = colors[labels[rows].clamp(min=0).long()].permute(2, 0, 1)
        band = image[:, rows].detach().cpu()
        band = band.float() / 255 if band.dtype == torch.uint8 else band.float()
        tinted.paste(to_image(torch.lerp(band, tint, strength)), (0, top))
    return tinted


def name_objects(
    image: UInt8[Tensor, "height width 3"], objects: Sequence[tuple[float, float, int, str]]
) -> Image.Image:
    """Mark objects in the colours of their slots, with their names below.

    Args:
        image: 0..255; a small image is enlarged, to a shorter side of 640 pixels or a longer side of at most
            2560.
        objects: (across, down, slot, name) with coordinates in [0, 1]. Names are broken after two words and
            moved down if they overlap.

    >>> name_objects(torch.zeros(64, 64, 3, dtype=torch.uint8), [(0.5, 0.5, 0, "large red metal cube")]).size
    (640, 640)
    """
    figure = Image.fromarray(image.cpu().numpy())
    scale = max(1, min(-(-NAMED // min(figure.size)), 4 * NAMED // max(figure.size)))
    figure = figure.resize((figure.width * scale, figure.height * scale), Image.Resampling.BICUBIC)
    size = max(TEXT_SIZE, round(min(figure.size) * TEXT_SIZE / NAMED))
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(size)
    colors = slot_colors(max((slot for _, _, slot, _ in objects), default=0) + 1)
    taken: list[tuple[float, float, float, float]] = []
    for across, down, slot, name in sorted(objects, key=lambda one: one[1]):
        x, y, color = across * figure.width, down * figure.height, tuple(colors[slot].tolist())
        draw.circle((x, y), size / 3, fill=color, outline=PAPER, width=max(1, size // 6))
        words = name.split()
        text = "\n".join(" ".join(words[start : start + 2]) for start in range(0, len(words), 2))
        right, bottom = draw.multiline_textbbox((0, 0), text, font)[2:]
        box = _free_box((right, bottom + size / 3), (x, y + size / 2), figure.size, taken)
        draw.multiline_text(
            box[:2], text, fill=INK, font=font, align="center", stroke_width=size // 6, stroke_fill=PAPER
        )
        taken.append(box)
    return figure


def slots_figure(
    images: Float[Tensor, "batch 3 height width"],
    reconstruction: Float[Tensor, "batch 3 height width"],
    masks: Float[Tensor, "batch slots height width"],
    appearance: Float[Tensor, "batch slots 3 height width"],
    *,
    scale: int | None = None,
) -> Image.Image:
    """One row per image: image, reconstruction, segmentation, and every slot's masked appearance.

    Args:
        images, reconstruction, appearance: values in [0, 1], clipped.
        masks: alpha masks; sum to 1 over slots.
        scale: enlargement; by default a cell reaches 96 pixels.

    >>> images, masks = torch.rand(2, 3, 35, 35), torch.rand(2, 4, 35, 35).softmax(1)
    >>> slots_figure(images, images, masks, images[:, None].expand(-1, 4, -1, -1, -1)).size
    (823, 287)
    """
    scale = scale or legible_scale(images)
    rows = []
    for image, rebuilt, its_masks, its_appearance in zip(
        images, reconstruction, masks, appearance, strict=True
    ):
        segmentation = overlay_one(enlarge(image, scale), its_masks, STRONG)
        alone = [on_chequer(*pair, scale) for pair in zip(its_appearance, its_masks, strict=True)]
        rows.append([_cell(image, scale), _cell(rebuilt, scale), segmentation, *alone])
    headings = ["image", "reconstruction", "segmentation"]
    return grid(rows, headings, num_slots=masks.shape[1])


def attention_figure(
    image: Float[Tensor, "3 height width"],
    attention: Float[Tensor, "iterations slots rows columns"],
    *,
    reconstruction: Float[Tensor, "3 height width"] | None = None,
) -> Image.Image:
    """The attention of every slot (columns) at every iteration (rows), after Locatello et al. 2020, Figure 3.

    Args:
        image: values in [0, 1].
        attention: softmax over slots of every iteration, in [0, 1]; any resolution.
        reconstruction: shown next to the image if given.

    >>> attention_figure(torch.rand(3, 64, 64), torch.rand(3, 4, 32, 32).softmax(1)).mode
    'RGB'
    """
    scale = legible_scale(image)
    large = enlarge(image, scale)
    once = {"image": to_image(large)}
    if reconstruction is not None:
        once["reconstruction"] = to_image(enlarge(reconstruction, scale))
    colors = slot_colors(attention.shape[1])
    rows = []
    for weights in attention:
        slots = [attention_cell(large, weight, color) for weight, color in zip(weights, colors, strict=True)]
        rows.append([overlay_one(large, weights, STRONG), *slots])
    names = [f"iteration {number}" for number in range(1, len(rows) + 1)]
    return grid(rows, ["largest attention"], num_slots=len(colors), row_names=names, once=once)


def masks_figure(
    image: Float[Tensor, "3 height width"], masks: Float[Tensor, "slots rows columns"]
) -> Image.Image:
    """Image, segmentation, and every slot's mask, in rows of eleven; a large image is reduced to cells of 160
    pixels.

    Args:
        image: values in [0, 1].
        masks: soft masks that sum to 1 over slots; any resolution.

    >>> masks_figure(torch.rand(3, 640, 320), torch.rand(4, 640, 320).softmax(0)).size
    (1040, 389)
    """
    height, width = image.shape[-2:]
    factor = min(1.0, LARGEST_CELL / min(height, width))
    size = round(height * factor), round(width * factor)
    large = functional.interpolate(image.detach().cpu().float()[None], size, mode="bilinear", antialias=True)[
        0
    ]
    large = enlarge(large, legible_scale(large))
    masks = _resize(masks, (large.shape[-2], large.shape[-1]))
    colors = slot_colors(len(masks))
    slots = [attention_cell(large, mask, color) for mask, color in zip(masks, colors, strict=True)]
    cells = [to_image(large), overlay_one(large, masks, STRONG), *slots]
    rows = []
    for start in range(0, len(cells), COLUMNS):
        some, headings = cells[start : start + COLUMNS], [] if start else ["image", "segmentation"]
        rows.append(grid([some], headings, num_slots=len(some) - len(headings), skipped=max(0, start - 2)))
    figure = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), PAPER)
    for number, row in enumerate(rows):
        figure.paste(row, (0, number * row.height))
    return figure


def indexed_png(
    labels: Integer[Tensor, "height width"] | Integer[np.ndarray, "height width"], path: str | Path
) -> None:
    """Write labels as a palette PNG, shown in slot colours and read back as labels.

    Raises: ValueError for a label outside 0..255.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "labels.png"
    >>> indexed_png(torch.tensor([[0, 1], [1, 2]]), path)
    >>> np.asarray(Image.open(path)).tolist()
    [[0, 1], [1, 2]]
    """
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels
    if values.min() < 0 or values.max() > 255:
        raise ValueError(
            f"labels of a palette PNG must be 0..255, got {values.min()}..{values.max()}; replace ignored "
            "pixels (-1) by another label"
        )
    figure = Image.fromarray(values.astype(np.uint8)).convert("P")
    figure.putpalette(slot_colors(256).tobytes())
    figure.save(path, format="PNG")


def to_image(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """A tensor with values in [0, 1] (clipped) as an 8-bit image.

    >>> to_image(torch.ones(3, 2, 2)).getpixel((0, 0))
    (255, 255, 255)
    """
    values = image.detach().cpu().float().clamp(0.0, 1.0).mul(255.0).round()
    return Image.fromarray(values.byte().permute(1, 2, 0).contiguous().numpy())


def enlarge(image: Float[Tensor, "*any height width"], scale: int) -> Float[Tensor, "*any tall wide"]:
    """Enlarge each pixel to `scale` x `scale` pixels, without interpolation.

    >>> enlarge(torch.rand(3, 35, 35), 3).shape
    torch.Size([3, 105, 105])
    """
    image = image.detach().cpu().float()
    return image.repeat_interleave(scale, dim=-1).repeat_interleave(scale, dim=-2)


def legible_scale(image: Float[Tensor, "*any height width"]) -> int:
    """The smallest integer enlargement with a shorter side of at least 96 pixels.

    >>> legible_scale(torch.zeros(3, 35, 35))
    3
    """
    return -(-LEGIBLE // min(image.shape[-2:]))


def attention_cell(
    image: Float[Tensor, "3 height width"],
    weight: Float[Tensor, "rows columns"],
    color: UInt8[np.ndarray, "3"],
) -> Image.Image:
    """One slot's attention in its colour over the dimmed image.

    `weight` in [0, 1], any resolution; the result has the size of `image`.

    >>> attention_cell(torch.zeros(3, 8, 8), torch.ones(2, 2), slot_colors(1)[0]).getpixel((3, 3))
    (58, 87, 255)
    """
    weight = _resize(weight[None], (image.shape[-2], image.shape[-1]))[0].clamp(0.0, 1.0)
    grey = image.detach().cpu().float().mean(0)
    light = torch.from_numpy(color / 255.0).float()[:, None, None] * weight
    # Add a little of the image's brightness; the slot's colour dominates.
    return to_image(light + (0.06 + 0.22 * grey) * (1.0 - weight) + 0.12 * grey * weight)


def write(
    image: Image.Image, center: tuple[int | float, int | float], text: str, size: int = TEXT_SIZE
) -> None:
    """Write `text` centred at `center` (x, y) of `image`, in Pillow's default font.

    >>> write(Image.new("RGB", (96, 20)), (48, 10), "slot 1")
    """
    ImageDraw.Draw(image).text(center, text, fill=INK, font=ImageFont.load_default(size), anchor="mm")


def _free_box(
    text: tuple[float, float],
    top: tuple[float, float],
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> tuple[float, float, float, float]:
    """A box for a text (width, height) below the point `top`, within `size`, without overlap with `taken`."""
    width, height = text
    left = min(max(top[0] - width / 2, 0), max(size[0] - width, 0))
    upper = min(top[1], size[1] - height)
    for other in sorted(taken, key=lambda one: one[1]):
        if left < other[2] and left + width > other[0] and upper < other[3] and upper + height > other[1]:
            upper = other[3]
    return left, upper, left + width, upper + height


def _resize(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Soft masks [slots, rows, columns] at another resolution."""
    masks = masks.detach().cpu().float()
    return functional.interpolate(masks[None], tuple(size), mode="bilinear", align_corners=False)[0]


def _label_map(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (int64) at `size`, from soft masks or labels of any resolution."""
    if masks.is_floating_point():
        return _resize(masks, size).argmax(0)
    labels = masks.detach().cpu()
    if labels.shape == tuple(size):
        return labels
    return functional.interpolate(labels.float()[None, None], tuple(size), mode="nearest-exact")[0, 0].long()


def _borders(labels: Tensor, reach: int) -> Tensor:
    """True within `reach` pixels of another label."""
    values = labels.short() if labels.dtype in (torch.uint8, torch.int16) else labels.int()
    return _highest(values, reach) != -_highest(-values, reach)


def _highest(values: Tensor, reach: int) -> Tensor:
    """The maximum [height, width] within `reach` pixels, by separable doubling windows (`max_pool2d` takes
    24 s for a photograph of 12 million pixels)."""
    for dim in (0, 1):
        padding = (0, 0, reach, reach) if dim == 0 else (reach, reach, 0, 0)
        values = functional.pad(values, padding, value=torch.iinfo(values.dtype).min)
        window = 1
        while window < 2 * reach + 1:
            step = min(window, 2 * reach + 1 - window)
            length = values.shape[dim] - step
            values = torch.maximum(values.narrow(dim, 0, length), values.narrow(dim, step, length))
            window += step
    return values


def _cell(image: Tensor, scale: int) -> Image.Image:
    return to_image(enlarge(image, scale))


def on_chequer(appearance: Tensor, mask: Tensor, scale: int) -> Image.Image:
    """The masked appearance of one slot over a chequerboard with squares of 8 pixels."""
    appearance, mask = enlarge(appearance, scale), enlarge(mask, scale)
    down, across = (torch.arange(side) // 8 for side in mask.shape)
    chequers = torch.tensor(CHEQUER)[(down[:, None] + across) % 2] / 255.0
    return to_image(torch.lerp(chequers.expand_as(appearance), appearance.clamp(0.0, 1.0), mask))


def grid(
    rows: list[list[Image.Image]],
    headings: list[str],
    *,
    num_slots: int,
    skipped: int = 0,
    row_names: Sequence[str] = (),
    once: Mapping[str, Image.Image] = MappingProxyType({}),
) -> Image.Image:
    """Cells of one size under headings; the last `num_slots` columns are slots with colour bars, numbered
    after `skipped` others.

    Row names may have several lines. Images in `once` are drawn once, left of the row names.
    """
    width, height = rows[0][0].size
    top = MARGIN + TEXT_SIZE + 2 * GAP
    font = ImageFont.load_default(TEXT_SIZE)
    lines = [line for name in row_names for line in name.splitlines()]
    name_width = max((round(font.getlength(line)) + 3 * GAP for line in lines), default=0)
    left = MARGIN + len(once) * (width + GAP) + name_width
    tall = len(rows) * (height + GAP) - GAP
    size = (left + len(rows[0]) * (width + GAP) - GAP + MARGIN, top + tall + MARGIN)
    figure = Image.new("RGB", size, PAPER)

    for column, (name, cell) in enumerate(once.items()):
        x, y = MARGIN + column * (width + GAP), top + (tall - height) // 2
        figure.paste(cell, (x, y))
        write(figure, (x + width / 2, y - GAP - TEXT_SIZE / 2), name)
    for row, name in enumerate(row_names):
        write(figure, (left - name_width / 2 - GAP / 2, top + row * (height + GAP) + height / 2), name)
    slots = range(skipped, skipped + num_slots)
    colors = slot_colors(skipped + num_slots).tolist()
    bars = [None] * len(headings) + [tuple(colors[slot]) for slot in slots]
    names = [*headings, *(f"slot {slot + 1}" for slot in slots)]
    for column, (name, bar) in enumerate(zip(names, bars, strict=True)):
        x = left + column * (width + GAP)
        write(figure, (x + width / 2, MARGIN + TEXT_SIZE / 2), name)
        if bar:
            ImageDraw.Draw(figure).rectangle((x, top - GAP, x + width - 1, top - GAP + BAR - 1), fill=bar)
        for row, cells in enumerate(rows):
            figure.paste(cells[column], (x, top + row * (height + GAP)))
    return figure
