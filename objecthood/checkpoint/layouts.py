"""Where weights of published slot models lie in their files, and which of ours each becomes.

Facts of gkakogeorgiou/spot, martius-lab/videosaur and martius-lab/slotcontrast: names, shapes, order of
operations. The last two are one code base; in its attention of transformer blocks, queries are multiplied by
the square root of a head's size where others divide, so that our query weights are theirs times that size.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from objecthood.nn.stored_vit import HEAD_DIM, Shape
from objecthood.recipes.base import Recipe
from objecthood.recipes.converted import ConvertedSpot, ConvertedVideo

Weights: TypeAlias = Mapping[str, Tensor]
Made: TypeAlias = dict[str, tuple[tuple[str, ...], Callable[..., Tensor]]]
"""Our weights, each of theirs: their names, and a function of these."""
SPOT_ORDERS = (0, 1, 3, 2, 5, 4, 7, 6, 8)
"""Of our `patch_orders`, the number in SPOT's list."""


class Options(NamedTuple):
    """What weights do not tell; None: the published settings."""

    heads: int | None = None
    """Of the decoder's attention (SPOT), or of predictor and mixer (VideoSAUR, SlotContrast)."""
    num_slots: int | None = None
    """Where initial slots are drawn from a Gaussian."""


class Layout(NamedTuple):
    """One kind of file."""

    recipe: Callable[[Weights, Options], Recipe]
    """The recipe that builds the model; KeyError or ValueError where the weights are of another kind."""
    made: Callable[[Any, Weights], Made]
    """How our weights are made, for that recipe."""
    ignored: re.Pattern[str]
    """Names of theirs that are not needed."""


def spot_recipe(weights: Weights, options: Options) -> ConvertedSpot:
    """The recipe of a file of SPOT."""
    orders, _, _, dim = weights["bos_tokens"].shape
    slot_dim = len(weights["slot_attn.slot_attention.project_q.weight"])
    learned = "slot_attn.slots_init.weight" in weights
    shape = _shape(weights, "encoder.")
    grid = _side(weights["encoder.pos_embed"].shape[1] - 1)
    return ConvertedSpot(
        name="spot",
        description="SPOT, converted from its published layout",
        backbone=shape.name,
        two_encoders="second_encoder.cls_token" in weights,
        resolution=grid * shape.patch,
        num_slots=len(weights["slot_attn.slots_init.weight"]) if learned else options.num_slots or 7,
        slot_dim=slot_dim,
        initial_slots="learned" if learned else "gaussian",
        decoder="autoregressive",
        decoder_heads=options.heads or (6 if dim % 6 == 0 else 1),
        decoder_layers=_count(weights, "dec.blocks."),
        patch_orders=orders,
        steps=1,
    )


def spot_made(recipe: ConvertedSpot, weights: Weights) -> Made:
    """Our weights of SPOT's."""
    target = "second_encoder." if recipe.two_encoders else "encoder."
    shape = Shape.of(recipe.backbone)
    made = _vit("backbone.", target, shape)
    if recipe.two_encoders:
        made |= _vit("grouped.", "encoder.", shape)
    made |= _layers("project.0", "slot_attn.layer_norm")
    made |= _layers("project.1", "slot_attn.mlp.0") | _layers("project.3", "slot_attn.mlp.2")
    initial = "grouping.initial_slots."
    if recipe.initial_slots == "learned":
        made[f"{initial}queries"] = ("slot_attn.slots_init.weight",), lambda slots: slots[None]
    else:
        made |= _same(f"{initial}slots_mu", "slot_attn.slot_mu")
        made |= _same(f"{initial}slots_log_sigma", "slot_attn.slot_log_sigma")
    ours, theirs = "grouping.slot_attention.", "slot_attn.slot_attention."
    for name in ("norm_inputs", "norm_slots", "norm_mlp", "mlp.0", "mlp.2"):
        made |= _layers(ours + name, theirs + name)
    for name in ("project_q", "project_k", "project_v"):
        made |= _same(f"{ours}{name}.weight", f"{theirs}{name}.weight")
    made |= _gru(f"{ours}gru", f"{theirs}gru")
    for name, source in (("from_feature", "input_proj"), ("from_slot", "slot_proj")):
        made |= _same(f"decoder.{name}.0.weight", f"{source}.0.weight")
        made |= _layers(f"decoder.{name}.1", f"{source}.1")
    made["decoder.start"] = ("bos_tokens",), lambda start: start[list(SPOT_ORDERS[: len(start)]), 0]
    for number in range(recipe.decoder_layers):
        ours, theirs = f"decoder.blocks.{number}.", f"dec.blocks.{number}."
        within, across = f"{theirs}self_attn.proj_", f"{theirs}encoder_decoder_attn.proj_"
        made[f"{ours}self_in.weight"] = tuple(f"{within}{one}.weight" for one in "qkv"), _joined
        made[f"{ours}key_value.weight"] = tuple(f"{across}{one}.weight" for one in "kv"), _joined
        made |= _same(f"{ours}self_out.weight", f"{within}o.weight")
        made |= _same(f"{ours}query.weight", f"{across}q.weight")
        made |= _same(f"{ours}cross_out.weight", f"{across}o.weight")
        for name, source in (
            ("norm_self", "self_attn_layer_norm"),
            ("norm_cross", "encoder_decoder_attn_layer_norm"),
            ("norm_mlp", "ffn_layer_norm"),
            ("mlp.0", "ffn.0"),
            ("mlp.2", "ffn.2"),
        ):
            made |= _layers(ours + name, theirs + source)
    return made | _layers("decoder.norm", "dec.layer_norm")


def videosaur_recipe(weights: Weights, options: Options) -> ConvertedVideo:
    """The recipe of a file of VideoSAUR: a slot mixer."""
    widths = [
        len(weights[f"decoder.renderer.layers.{number}.weight"]) for number in _even(weights, "renderer")
    ]
    decoded, patches = len(weights["decoder.output_transform.weight"]), weights["decoder.pos_emb"].shape[1]
    dim = weights["encoder.backbone.model.cls_token"].shape[-1]
    known = {dim: (1.0, 0.0), patches: (0.0, 0.1), dim + patches: (1.0, 0.1)}
    if decoded not in known:
        raise ValueError(
            f"its decoder has {decoded} outputs, where {patches} similarities, {dim} features, or both fit"
        )
    recipe = _video_recipe(weights, options, "videosaur", patches)
    return dataclasses.replace(
        recipe,
        decoder="mixer",
        decoder_dim=widths[0],
        decoder_layers=len(widths),
        decoder_blocks=_count(weights, "decoder.allocator.blocks."),
        feature_weight=known[decoded][0],
        similarity=known[decoded][1],
    )


def videosaur_made(recipe: ConvertedVideo, weights: Weights) -> Made:
    """Our weights of VideoSAUR's."""
    made = _video_made(recipe, weights)
    made["decoder.positions"] = ("decoder.pos_emb",), lambda positions: positions[0]
    for name, source in (("norm_memory", "norm_memory"), ("norm_query", "norm_q"), ("norm_key", "norm_k")):
        made |= _layers(f"decoder.{name}", f"decoder.{source}")
    made |= _same("decoder.to_query.weight", "decoder.to_q.weight")
    made |= _same("decoder.to_key.weight", "decoder.to_k.weight")
    for number in range(recipe.decoder_blocks):
        made |= _block(f"decoder.blocks.{number}", f"decoder.allocator.blocks.{number}", recipe)
    for number in range(recipe.decoder_layers):
        made |= _layers(f"decoder.hidden.{number}", f"decoder.renderer.layers.{2 * number}")
    return made | _layers("decoder.to_feature", "decoder.output_transform")


def slotcontrast_recipe(weights: Weights, options: Options) -> ConvertedVideo:
    """The recipe of a file of SlotContrast: an MLP decoder."""
    numbers = _even(weights, "mlp")
    recipe = _video_recipe(weights, options, "slotcontrast", weights["decoder.pos_emb"].shape[2])
    return dataclasses.replace(
        recipe,
        decoder="mlp",
        decoder_dim=len(weights["decoder.mlp.layers.0.weight"]),
        decoder_layers=len(numbers) - 1,
        slot_contrast=0.5,
    )


def slotcontrast_made(recipe: ConvertedVideo, weights: Weights) -> Made:
    """Our weights of SlotContrast's."""
    made = _video_made(recipe, weights)
    made["decoder.positions"] = ("decoder.pos_emb",), lambda positions: positions[0, 0]
    made |= _layers("decoder.first", "decoder.mlp.layers.0")
    for number in range(1, recipe.decoder_layers):
        made |= _layers(f"decoder.hidden.{number - 1}", f"decoder.mlp.layers.{2 * number}")
    for kind in ("weight", "bias"):
        last = (f"decoder.mlp.layers.{2 * recipe.decoder_layers}.{kind}",)
        made[f"decoder.to_feature.{kind}"] = last, lambda values: values[:-1]
        made[f"decoder.to_mask.{kind}"] = last, lambda values: values[-1:]
    return made


def _video_recipe(weights: Weights, options: Options, name: str, patches: int) -> ConvertedVideo:
    """What VideoSAUR and SlotContrast share."""
    learned = "initializer.slots" in weights
    shape = _shape(weights, "encoder.backbone.model.")
    return ConvertedVideo(
        name=name,
        description=f"{name}, converted from its published layout",
        backbone=shape.name,
        resolution=_side(patches) * shape.patch,
        num_slots=weights["initializer.slots"].shape[1] if learned else options.num_slots or 7,
        slot_dim=len(weights["processor.corrector.to_q.weight"]),
        initial_slots="learned" if learned else "gaussian",
        slot_mlp="processor.corrector.mlp.layers.0.weight" in weights,
        decoder_heads=options.heads or 4,
        steps=1,
    )


def _video_made(recipe: ConvertedVideo, weights: Weights) -> Made:
    """Our weights of what VideoSAUR and SlotContrast share."""
    made = _vit("backbone.", "encoder.backbone.model.", Shape.of(recipe.backbone), _positions(recipe))
    for number in (0, 1, 3):  # layer norm, linear, (ReLU), linear
        made |= _layers(f"project.{number}", f"encoder.output_transform.layers.{number}")
    initial = "grouping.initial_slots."
    if recipe.initial_slots == "learned":
        made |= _same(f"{initial}queries", "initializer.slots")
    else:
        made |= _same(f"{initial}slots_mu", "initializer.mean")
        made |= _same(f"{initial}slots_log_sigma", "initializer.log_std")
    ours, theirs = "grouping.slot_attention.", "processor.corrector."
    for name in "qkv":
        made |= _same(f"{ours}project_{name}.weight", f"{theirs}to_{name}.weight")
    made |= _layers(f"{ours}norm_inputs", f"{theirs}norm_features")
    made |= _layers(f"{ours}norm_slots", f"{theirs}norm_slots") | _gru(f"{ours}gru", f"{theirs}gru")
    if recipe.slot_mlp:
        for name, number in (("norm_mlp", 0), ("mlp.0", 1), ("mlp.2", 3)):
            made |= _layers(ours + name, f"{theirs}mlp.layers.{number}")
    return made | _block("predictor", "processor.predictor.blocks.0", recipe)


def _block(ours: str, theirs: str, recipe: ConvertedVideo) -> Made:
    """A pre-norm transformer block, whose query weights take the factor of their attention."""
    size = recipe.slot_dim // recipe.decoder_heads

    def scaled(values: Tensor) -> Tensor:
        query, key, value = values.chunk(3)
        return torch.cat([query * size, key, value])

    made: Made = {
        f"{ours}.project_in.{kind}": ((f"{theirs}.self_attn.qkv.{kind}",), scaled)
        for kind in ("weight", "bias")
    }
    for name, source in (
        ("project_out", "self_attn.out_proj"),
        ("norm_attention", "norm1"),
        ("norm_mlp", "norm2"),
        ("mlp.0", "linear1"),
        ("mlp.2", "linear2"),
    ):
        made |= _layers(f"{ours}.{name}", f"{theirs}.{source}")
    return made


def _vit(ours: str, theirs: str, shape: Shape, positions: Callable[[Tensor], Tensor] | None = None) -> Made:
    """A vision transformer, of the names of DINO's code and of `timm`."""
    made = _same(f"{ours}cls_token", f"{theirs}cls_token")
    made[f"{ours}pos_embed"] = (f"{theirs}pos_embed",), positions or (lambda values: values)
    if shape.registers:
        made |= _same(f"{ours}register_tokens", f"{theirs}register_tokens")
    else:
        made[f"{ours}register_tokens"] = (f"{theirs}cls_token",), lambda values: values[:, :0]
    layers = ["patch_embed.proj"]
    for number in range(shape.depth):
        block = f"blocks.{number}."
        layers += [block + name for name in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")]
        for name in ("ls1", "ls2") if shape.scaled else ():
            made |= _same(f"{ours}{block}{name}.gamma", f"{theirs}{block}{name}.gamma")
    for name in layers:
        made |= _layers(ours + name, theirs + name)
    return made


def _positions(recipe: ConvertedVideo) -> Callable[[Tensor], Tensor]:
    """Positions at the model's grid, as `timm` interpolates them: bicubic, antialiased."""

    def at_grid(values: Tensor) -> Tensor:
        first, patches = values[:, :1], values[:, 1:]
        side, wanted = _side(patches.shape[1]), recipe.resolution // Shape.of(recipe.backbone).patch
        if side == wanted:
            return values
        maps = patches.float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        maps = F.interpolate(maps, (wanted, wanted), mode="bicubic", antialias=True)
        return torch.cat([first, maps.flatten(2).transpose(1, 2)], dim=1)

    return at_grid


def _shape(weights: Weights, prefix: str) -> Shape:
    """The shape of a vision transformer."""
    dim, _, patch, _ = weights[f"{prefix}patch_embed.proj.weight"].shape
    if dim % HEAD_DIM:
        raise ValueError(f"its encoder has features of {dim}, not a multiple of {HEAD_DIM}: no ViT of DINO")
    tokens = weights.get(f"{prefix}register_tokens")
    scaled = f"{prefix}blocks.0.ls1.gamma" in weights
    return Shape(
        dim, _count(weights, f"{prefix}blocks."), patch, scaled, 0 if tokens is None else tokens.shape[1]
    )


def _count(weights: Weights, prefix: str) -> int:
    """How many numbers follow that prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


def _even(weights: Weights, name: str) -> list[int]:
    """Numbers of the linear layers of a decoder's MLP: every second one is an activation."""
    found = range(0, 2 * _count(weights, f"decoder.{name}.layers."), 2)
    if not found:
        raise KeyError(f"decoder.{name}.layers.0.weight")
    return list(found)


def _side(patches: int) -> int:
    """Patches a side of a square grid."""
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"its {patches} patches are not a square")
    return math.isqrt(patches)


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _same(ours: str, theirs: str) -> Made:
    return {ours: ((theirs,), lambda values: values)}


def _layers(ours: str, theirs: str) -> Made:
    """Weight and bias of a layer."""
    return _same(f"{ours}.weight", f"{theirs}.weight") | _same(f"{ours}.bias", f"{theirs}.bias")


def _gru(ours: str, theirs: str) -> Made:
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    made: Made = {}
    for kind in kinds:
        made |= _same(f"{ours}.{kind}", f"{theirs}.{kind}")
    return made


_UNUSED_VIT = r"(?:norm|fc_norm|head)\.(?:weight|bias)|mask_token"
_VIDEO = re.compile(rf"encoder\.backbone\.model\.(?:{_UNUSED_VIT})")
LAYOUTS: dict[str, Layout] = {
    "spot": Layout(
        spot_recipe,
        spot_made,
        re.compile(rf"(?:second_)?encoder\.(?:{_UNUSED_VIT})|dec\.blocks\.\d+\.self_attn_mask"),
    ),
    "videosaur": Layout(videosaur_recipe, videosaur_made, _VIDEO),
    "slotcontrast": Layout(slotcontrast_recipe, slotcontrast_made, _VIDEO),
}
"""Published layouts by name."""
