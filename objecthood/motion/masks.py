"""Post-process slot masks of motion fields into one mask of moving objects per frame, without labels.

Steps: select foreground, combine directions, compare with the motion nearby, average over time, refine by
colour, filter to edges. All masks are soft, in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from objecthood.motion.paths import warped
from objecthood.nn.guided_filter import guided_filter


def moving_mask(masks: Float[Tensor, "fields slots rows columns"]) -> Float[Tensor, "fields rows columns"]:
    """The complement of the background, the slot with the largest mask along the image border.

    Example:
        >>> masks = torch.zeros(1, 2, 4, 4)
        >>> masks[0, 0], masks[0, 0, 1:3, 1:3], masks[0, 1, 1:3, 1:3] = 1.0, 0.0, 1.0
        >>> moving_mask(masks)[0, 1].tolist()
        [0.0, 1.0, 1.0, 0.0]
    """
    return 1 - masks[torch.arange(len(masks), device=masks.device), ground_slot(masks)]


def ground_slot(masks: Float[Tensor, "fields slots rows columns"]) -> Int[Tensor, " fields"]:
    """The background slot, which has the largest mask along the image border."""
    return border_share(masks).argmax(dim=1)


def border_share(
    masks: Float[Tensor, "fields slots rows columns"],
) -> Float[Tensor, "fields slots"]:
    """The mean of each mask along the image border."""
    sides = (masks[..., 0, :], masks[..., -1, :], masks[..., 0], masks[..., -1])
    return torch.cat(sides, dim=-1).mean(dim=-1)


def sharpened(
    masks: Float[Tensor, "fields slots rows columns"],
    appearance: Float[Tensor, "fields slots 3 rows columns"],
    motion: Float[Tensor, "fields 3 height width"],
) -> Float[Tensor, "fields slots height width"]:
    """Posterior masks on the grid of `motion`: mask times Gaussian likelihood of the motion given each slot's
    appearance, with the variance of the residual."""
    size = motion.shape[2:]
    decoded = F.interpolate(appearance.flatten(0, 1), size, mode="bilinear", align_corners=False)
    wide = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    # Horizontal and vertical motion span [-1, 1], speed [0, 1]: four times the squared difference in images.
    units = torch.tensor([4.0, 4.0, 1.0], device=motion.device)[:, None, None]
    error = ((motion[:, None] - decoded.unflatten(0, masks.shape[:2])).square() * units).sum(dim=2)
    variance = (wide * error).sum(dim=1).mean(dim=(-1, -2)).clamp_min(1e-4)[:, None, None, None]
    return (wide.clamp_min(1e-4).log() - error / (2 * variance)).softmax(dim=1)


def main_slot(masks: Float[Tensor, "fields slots rows columns"]) -> Int[Tensor, " fields"]:
    """The main foreground slot: largest area, weighted down by its share of the border."""
    area = masks.mean(dim=(-1, -2))
    away = (1 - border_share(masks) / area.clamp_min(1e-3)).clamp_min(0.01)
    background = F.one_hot(ground_slot(masks), masks.shape[1]).bool()
    return (area * away).masked_fill(background, -1).argmax(dim=1)


def located(
    masks: Float[Tensor, "frames rows columns"], flat: float = 2.0, frames: int = 3
) -> Float[Tensor, "frames rows columns"]:
    """A spatial prior of the main object: 1 within the ellipse of `flat` standard deviations of its mask,
    decreasing outside. Moments are medians over `frames` frames before and after."""
    rows, columns = masks.shape[1:]
    y = torch.arange(rows, device=masks.device)[:, None] + 0.5
    x = torch.arange(columns, device=masks.device) + 0.5
    weight = masks / masks.sum(dim=(1, 2), keepdim=True).clamp_min(1e-3)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum(dim=(1, 2), keepdim=True)

    across, down = x - mean(x), y - mean(y)
    least = 4.0  # smallest variance, in squared pixels
    moments = [mean(x), mean(y), mean(across**2) + least, mean(down**2) + least, mean(across * down)]
    padded = F.pad(torch.cat(moments, dim=2)[:, 0].T[None], (frames, frames), mode="replicate")[0]
    median = padded.unfold(1, 2 * frames + 1, 1).median(dim=-1).values[:, :, None, None]
    across, down = x - median[0], y - median[1]
    determinant = (median[2] * median[3] - median[4] ** 2).clamp_min(1)
    squared = (median[3] * across**2 - 2 * median[4] * across * down + median[2] * down**2) / determinant
    return (-(squared.clamp_min(0).sqrt() - flat).clamp_min(0).square()).exp()


def fast_near(
    main: Float[Tensor, "frames directions rows columns"],
    speed: Float[Tensor, "frames directions rows columns"],
    flow: Float[Tensor, "frames directions 2 rows columns"],
) -> Float[Tensor, "frames directions rows columns"]:
    """Fast pixels near the main slot."""
    near = located(carried_along(agreed(main), flow))
    return above_threshold(speed) * near[:, None]


def above_threshold(speed: Float[Tensor, "*fields rows columns"]) -> Float[Tensor, "*fields rows columns"]:
    """1 where a field exceeds its Otsu threshold (Otsu 1979, 256 bins up to the 99th percentile), else 0.

    Example:
        >>> above_threshold(torch.tensor([[0.1, 0.2, 0.1], [2.0, 0.1, 2.2]])).tolist()
        [[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]
    """
    fields = speed.reshape(-1, *speed.shape[-2:])
    return torch.stack([_otsu(field) for field in fields]).view(speed.shape).float()


def finished(
    masks: Float[Tensor, "frames directions rows columns"],
    flow: Float[Tensor, "frames directions 2 height width"],
    images: Float[Tensor, "frames 3 rows columns"],
    colours: float = 0.6,
    together: float = 0.0,
    rounds: int = 1,
) -> Float[Tensor, "frames rows columns"]:
    """One mask per frame: directions combined, compared with the motion nearby (weight `together`), averaged
    over time, refined by colour (weight `colours`, in `rounds`) and filtered to edges."""
    mask = agreed(masks)
    if together:
        mask = moving_together(mask, flow, together)
    return drawn_to_edges(coloured(carried_along(mask, flow), images, colours, rounds=rounds), images)


def agreed(
    masks: Float[Tensor, "frames directions rows columns"],
) -> Float[Tensor, "frames rows columns"]:
    """The geometric mean over the fields of a frame: occlusion errors are in one of them only."""
    return masks.prod(dim=1) ** (1 / masks.shape[1])


def moving_together(
    masks: Float[Tensor, "frames rows columns"],
    flow: Float[Tensor, "frames directions 2 rows columns"],
    weight: float = 4.0,
    noise: float = 0.3,
) -> Float[Tensor, "frames rows columns"]:
    """Masks refined by common fate: a pixel that moves like the object nearby belongs to it, one that moves
    like the background nearby does not.

    The squared distances of a pixel's flow from the local mean within the mask (a) and outside it (b) give
    (b - a) / (a + b + noise²) in [-1, 1], which is added to the log odds `weight` times; directions are
    averaged. Local means, after Lankton and Tannenbaum 2008 ("Localizing region-based active contours",
    there of grey values), allow for parallax and for objects that bend.

    Example:
        >>> flow = torch.zeros(1, 2, 2, 24, 24)
        >>> flow[..., 8:16, 8:16] = 2.0
        >>> mask = 0.1 + 0.8 * (flow[:, 0, 0] > 0)
        >>> mask[:, 11:13, 11:13], mask[:, 2, 8:16] = 0.1, 0.9  # a hole, and a bar that does not move
        >>> ((moving_together(mask, flow) > 0.5) == (flow[:, 0, 0] > 0)).all().item()
        True
    """
    inside, size = masks[:, None, None], masks.shape[1:]

    def distance(share: Tensor) -> Tensor:
        near = _local_mean(flow.flatten(0, 1), share.expand(-1, flow.shape[1], 1, *size).flatten(0, 1))
        return (flow - near.view_as(flow)).square().sum(dim=2)

    of_object, of_background = distance(inside), distance(1 - inside)
    likeness = (of_background - of_object) / (of_background + of_object + noise**2)
    return (masks.clamp(0.02, 0.98).logit() + weight * likeness.mean(dim=1)).sigmoid()


def _local_mean(
    values: Float[Tensor, "fields channels rows columns"], share: Float[Tensor, "fields 1 rows columns"]
) -> Float[Tensor, "fields channels rows columns"]:
    """Mean of `values` weighted by `share`, over a window of about 13 pixels of standard deviation; where no
    weight is near, the mean of the field."""
    size = values.shape[2:]
    coarse = tuple(max(side // 3, 1) for side in size)  # a third of the resolution is enough for a mean
    weight = F.interpolate(share, coarse, mode="area")
    sums = torch.cat([F.interpolate(values * share, coarse, mode="area"), weight], dim=1)
    whole = sums.mean(dim=(2, 3), keepdim=True)
    for _ in range(2):
        sums = F.avg_pool2d(sums, 11, 1, 5)
    sums = sums + 0.01 * whole / whole[:, -1:].clamp_min(1e-3)
    return F.interpolate(sums[:, :-1] / sums[:, -1:].clamp_min(1e-6), size, mode="bilinear")


def carried_along(
    masks: Float[Tensor, "frames rows columns"],
    flow: Float[Tensor, "frames directions 2 height width"],
    weight: float = 2.0,
) -> Float[Tensor, "frames rows columns"]:
    """Masks averaged over time with neighbouring frames warped by the flow.

    A running average in each direction weighs earlier frames by `weight` relative to the current one; their
    sum counts the current frame once. `flow` is to the next and from the previous frame, in pixels of its
    grid.
    """
    past, future = masks.clone(), masks.clone()
    for now in range(1, len(masks)):
        aligned = warped(past[now - 1][None], -flow[now, 1])[0]
        past[now] = (masks[now] + weight * aligned) / (1 + weight)
    for now in range(len(masks) - 2, -1, -1):
        aligned = warped(future[now + 1][None], flow[now, 0])[0]
        future[now] = (masks[now] + weight * aligned) / (1 + weight)
    return ((1 + weight) * (past + future) - masks) / (1 + 2 * weight)


def coloured(
    masks: Float[Tensor, "frames rows columns"],
    images: Float[Tensor, "frames 3 rows columns"],
    weight: float = 0.6,
    bins: int = 16,
    rounds: int = 1,
) -> Float[Tensor, "frames rows columns"]:
    """Masks refined by the colour distribution of foreground and background over the sequence.

    Adds to the log odds of the mask `weight` times the log odds of foreground given the pixel's colour, minus
    most of the prior log odds. Colours have `bins` bins per channel; their histogram is blurred. Each of the
    `rounds` takes its histograms from the refined masks of the one before.
    """
    colour, refined = _colour_bins(images, bins), masks
    of_all = _blurred_counts(colour, torch.ones_like(masks), bins)
    for _ in range(rounds):
        inside = (refined > 0.5).float()
        common = inside.mean().clamp(1e-3, 0.9)
        share = (_blurred_counts(colour, inside, bins) + 10 * common) / (of_all + 10)
        evidence = share[colour].clamp(0.01, 0.99).logit() - 0.8 * common.logit() - 0.5
        refined = (masks.clamp(0.02, 0.98).logit() + weight * evidence).sigmoid()
    return refined


def drawn_to_edges(
    masks: Float[Tensor, "frames rows columns"], images: Float[Tensor, "frames 3 rows columns"]
) -> Float[Tensor, "frames rows columns"]:
    """Masks that follow the edges of the images, by the guided filter with a radius of 5 pixels."""
    pairs = zip(images, masks[:, None], strict=True)
    return torch.stack([guided_filter(image, mask, radius=5)[0] for image, mask in pairs]).clamp(0, 1)


def _colour_bins(images: Tensor, bins: int) -> Tensor:
    """Joint bins of brightness and two colour differences, each spanning 99.8 % of the pixels."""
    red, green, blue = F.avg_pool2d(images, 3, 1, 1, count_include_pad=False).unbind(1)
    joint = torch.zeros_like(red, dtype=torch.long)
    for channel in (0.3 * red + 0.6 * green + 0.1 * blue, red - green, 0.5 * (red + green) - blue):
        low, high = channel.flatten()[::7].quantile(torch.tensor([0.001, 0.999], device=red.device))
        step = ((channel - low) / (high - low).clamp_min(0.05) * bins).long().clamp(0, bins - 1)
        joint = joint * bins + step
    return joint


def _blurred_counts(colour: Tensor, weight: Tensor, bins: int) -> Tensor:
    counts = torch.bincount(colour.flatten(), weight.flatten(), minlength=bins**3).float()
    kernel = torch.tensor([0.25, 0.5, 0.25], device=counts.device)
    cube = counts.view(1, 1, bins, bins, bins)
    cube = F.conv3d(cube, kernel.view(1, 1, 3, 1, 1), padding=(1, 0, 0))
    cube = F.conv3d(cube, kernel.view(1, 1, 1, 3, 1), padding=(0, 1, 0))
    return F.conv3d(cube, kernel.view(1, 1, 1, 1, 3), padding=(0, 0, 1)).flatten()


def otsu_threshold(values: Float[Tensor, "rows columns"]) -> Float[Tensor, ""]:
    """The smallest value above Otsu's threshold (`above_threshold`) of a field.

    Example:
        >>> field = torch.tensor([[0.1, 0.2, 0.1], [2.0, 0.1, 2.2]])
        >>> bool(0.2 < otsu_threshold(field) <= 2.0)
        True
    """
    _, level, unit = _otsu_level(values)
    return (level + 1) / 255 * unit


def _otsu(values: Tensor) -> Tensor:
    steps, level, _ = _otsu_level(values)
    return steps > level


def _otsu_level(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Values as bins of 0 to 255, the last bin below the threshold, and the value of bin 255."""
    unit = values.quantile(0.99).clamp_min(1e-6)
    steps = (values / unit).clamp(0, 1).mul(255).long()
    counts = torch.bincount(steps.flatten(), minlength=256).double()
    below = counts.cumsum(0)
    sums = (counts * torch.arange(256, device=values.device)).cumsum(0)
    above = below[-1] - below
    between = (sums / below.clamp_min(1) - (sums[-1] - sums) / above.clamp_min(1)).square() * below * above
    return steps, between.argmax(), unit
