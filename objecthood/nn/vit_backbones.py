"""Patch features of a pretrained vision transformer, from the hub: `hf:OWNER/NAME` or `timm:NAME`.

Through `transformers`: DINO (Caron et al. 2021, arXiv 2104.14294) and supervised ViTs, DINOv2 (Oquab et al.
2023, 2304.07193) with and without registers (Darcet et al. 2023, 2309.16588), DINOv3 (Siméoni et al. 2025,
2508.10104), MAE (He et al. 2022, 2111.06377). Through `timm`: any ViT with `forward_intermediates`.

All tokens before the patches (class token, registers) are dropped; MAE masks nothing; positional embeddings
are interpolated by the library. Weights are looked for in the local cache of huggingface_hub, then
downloaded. While a weight file is loaded (`frozen.only`) nothing is downloaded: a stranger's file may only
name what its reader has already.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn import frozen

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
"""Of DINO's, DINOv2's, DINOv3's and MAE's own preprocessing; used where the hub's files give no other."""
HF_MODELS: Mapping[str, dict[str, Any]] = {
    "vit": {"add_pooling_layer": False},  # checkpoints of DINO hold none: it would be random
    "vit_mae": {"mask_ratio": 0.0},
    "dinov2": {},
    "dinov2_with_registers": {},
    "dinov3_vit": {},
}
"""Kinds of models (`model_type` in config.json) and the options they are loaded with."""
CONFIG_FILES = ["config.json", "preprocessor_config.json"]
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
"""The first that a repository has; `transformers` reads .bin files without running code
(`weights_only=True`)."""


class _ViT(nn.Module):
    """What both libraries' models share: scaling of the input, choice of the layer, patches on their grid."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, stride: int, feature_dim: int, depth: int, facts: Mapping[str, Any]):
        super().__init__()
        self.model, self.stride, self.feature_dim, self.depth = model, stride, feature_dim, depth
        mean, deviation = facts.get("image_mean"), facts.get("image_std")
        # Buffers, so that the SHA-256 of the part covers them as well.
        self.register_buffer("mean", _channels(mean or IMAGENET_MEAN))
        self.register_buffer("deviation", _channels(deviation or IMAGENET_DEVIATION))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], layer: int = 0, final_norm: bool = False
    ) -> Float[Tensor, "batch rows columns feature_dim"]:
        """Patch tokens of images in [0, 1] after `layer` blocks (0: all), with or without the model's last
        norm; sides are multiples of `stride`.

        Raises:
            ValueError: there is no such layer.
        """
        if not 0 <= layer <= self.depth:
            raise ValueError(f"`layer` (={layer}) must be 1 to {self.depth}, or 0 for the last one")
        rows, columns = images.shape[2] // self.stride, images.shape[3] // self.stride
        tokens = self.tokens((images - self.mean) / self.deviation, layer or self.depth, final_norm)
        return tokens[:, -rows * columns :].unflatten(1, (rows, columns))

    def tokens(self, pixels: Tensor, layer: int, final_norm: bool) -> Float[Tensor, "batch tokens dim"]:
        """All tokens, patches last."""
        raise NotImplementedError


class HuggingFaceViT(_ViT):
    """A model of `transformers`."""

    def tokens(self, pixels: Tensor, layer: int, final_norm: bool) -> Float[Tensor, "batch tokens dim"]:
        config: Any = self.model.config
        options: dict[str, Any] = {}
        if config.model_type in ("vit", "vit_mae"):
            options["interpolate_pos_encoding"] = True
        if config.model_type == "vit_mae":  # shuffles patches by this noise even where it masks none
            patches = (pixels.shape[2] // self.stride) * (pixels.shape[3] // self.stride)
            order = torch.arange(patches, dtype=torch.float32, device=pixels.device)
            options["noise"] = order.expand(pixels.shape[0], -1)
        output = self.model(pixel_values=pixels, output_hidden_states=True, **options)
        if layer == self.depth and final_norm:
            return output.last_hidden_state
        hidden = output.hidden_states[layer]  # the first are the embeddings
        norm: Any = self.model.layernorm if hasattr(self.model, "layernorm") else self.model.norm
        return norm(hidden) if final_norm else hidden


class TimmViT(_ViT):
    """A model of `timm`."""

    def tokens(self, pixels: Tensor, layer: int, final_norm: bool) -> Float[Tensor, "batch tokens dim"]:
        model: Any = self.model
        (tokens,) = model.forward_intermediates(
            pixels, indices=[layer - 1], norm=final_norm, output_fmt="NLC", intermediates_only=True
        )
        return tokens


def _restore_hf(name: str, revision: str) -> tuple[nn.Module, str]:
    """The `frozen.Restorer` of kind "hf"."""
    try:
        from transformers import AutoConfig, AutoModel
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "hf: backbones need transformers: pip install 'objecthood[backbones]'"
        ) from error
    folder = snapshot(name, revision)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type not in HF_MODELS:
        raise ValueError(f"its model type {config.model_type!r} must be one of {', '.join(HF_MODELS)}")
    with _quiet():
        model, report = AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            output_loading_info=True,
            dtype=torch.float32,
            **HF_MODELS[config.model_type],
        )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"its weights lack {missing[0]!r}, which would be random; name another revision")
    config = model.config
    part = HuggingFaceViT(
        model, config.patch_size, config.hidden_size, config.num_hidden_layers, _preprocessing(folder)
    )
    return part, folder.name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's table of tensors that are not used (heads), and its progress bar."""
    import transformers.utils

    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _restore_timm(name: str, revision: str) -> tuple[nn.Module, str]:
    """The `frozen.Restorer` of kind "timm": weights of the hub's repository timm/NAME."""
    try:
        import timm
    except Exception as error:  # or a package it needs
        raise ModuleNotFoundError(f"timm: backbones need timm, which cannot be imported ({error})") from error
    folder = snapshot(f"timm/{name}", revision)
    file = next(path for pattern in WEIGHT_FILES for path in sorted(folder.glob(pattern)))
    model = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
        num_classes=0,
        dynamic_img_size=True,
    )
    facts = {"image_mean": model.pretrained_cfg["mean"], "image_std": model.pretrained_cfg["std"]}
    stride = model.patch_embed.patch_size[0]
    return TimmViT(model, stride, model.embed_dim, len(model.blocks), facts), folder.name


frozen.RESTORERS |= {"hf": _restore_hf, "timm": _restore_timm}


def snapshot(name: str, revision: str) -> Path:
    """The folder of a repository of the hub in the local cache, downloaded where that is allowed; its name
    is the commit.

    Raises:
        ValueError: it is not in the cache while a weight file is loaded, or has no weights.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted: dict[str, Any] = {"repo_id": name, "revision": revision or None}
    try:
        folder = Path(snapshot_download(**wanted, allow_patterns=CONFIG_FILES, local_files_only=True))
        if any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
            return folder
    except LocalEntryNotFoundError:
        pass
    if frozen.is_loading():
        at = f" --revision {revision}" if revision else ""
        raise ValueError(
            "it is not in the local cache, and a weight file starts no download; if you trust it: "
            f"hf download {name}{at}"
        )
    for pattern in WEIGHT_FILES:
        folder = Path(snapshot_download(**wanted, allow_patterns=[*CONFIG_FILES, pattern]))
        if any(folder.glob(pattern)):
            return folder
    raise ValueError(f"the repository {name} has no weights ({' or '.join(WEIGHT_FILES)})")


def _preprocessing(folder: Path) -> dict[str, Any]:
    """What preprocessor_config.json says, if there is one."""
    file = folder / "preprocessor_config.json"
    facts = json.loads(file.read_text()) if file.is_file() else {}
    return facts if isinstance(facts, dict) else {}


def _channels(values: Any) -> Float[Tensor, "3 1 1"]:
    """Three numbers, one for each colour."""
    numbers = torch.tensor(values, dtype=torch.float32)
    if numbers.shape != (3,) or not numbers.isfinite().all():
        raise ValueError(f"mean and deviation of its images must be 3 numbers each; got {values!r:.60}")
    return numbers[:, None, None]
