"""Vision transformers of random weights, a few kilobytes each, in the layout of the hub's local cache."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIZES = dict(hidden_size=24, num_hidden_layers=3, num_attention_heads=3, image_size=32)
KINDS = ("dino", "mae", "dinov2", "dinov2-registers", "dinov3")
PREFIX = {"dinov2-registers": 5, "dinov3": 5}
"""Tokens before the patches, where there are more than one."""


def tiny(kind: str, patch: int = 8):
    """A model of `transformers`, in evaluation mode."""
    import transformers as t

    sizes = SIZES | {"patch_size": patch}
    wide = sizes | {"intermediate_size": 48}
    decoder = dict(decoder_num_hidden_layers=1, decoder_hidden_size=16, decoder_num_attention_heads=2)
    decoder |= dict(decoder_intermediate_size=16)
    makers = {
        "dino": lambda: t.ViTModel(t.ViTConfig(**wide)),
        "mae": lambda: t.ViTMAEForPreTraining(t.ViTMAEConfig(**wide, **decoder)),
        "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**sizes, mlp_ratio=2)),
        "dinov2-registers": lambda: t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**sizes, mlp_ratio=2, num_register_tokens=4)
        ),
        "dinov3": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**wide, num_register_tokens=4)),
    }
    return makers[kind]().eval()


def stand_in(name: str, revision: str):
    """A tiny model in place of one of the hub, with its patch: a `frozen.Restorer`."""
    from objecthood.nn.vit_backbones import HuggingFaceViT

    patch = 14 if "dinov2" in name else 16
    return HuggingFaceViT(tiny("dino", patch), patch, SIZES["hidden_size"], 3, {}), revision or COMMIT


def snapshot_folder(cache: Path, name: str, commit: str = COMMIT) -> Path:
    """An empty snapshot that is the newest of a repository."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    folder.mkdir(parents=True)
    return folder


def publish(cache: Path, name: str, kind: str, patch: int = 8, seed: int = 0, commit: str = COMMIT, **facts):
    """Save a tiny model under the name of a repository; `facts` go into its preprocessor_config.json."""
    torch.manual_seed(seed)
    model = tiny(kind, patch)
    folder = snapshot_folder(cache, name, commit)
    model.save_pretrained(folder)
    if facts:
        (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return model


def use_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have huggingface_hub look there, and nowhere else."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return folder
