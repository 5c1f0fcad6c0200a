"""Weights in and out: run checkpoints that survive a crash, and weight files that describe themselves."""

from objecthood.checkpoint.header import read_description
from objecthood.checkpoint.reference import load_reference
from objecthood.checkpoint.run import (
    NotSaved,
    check_space,
    described_recipe,
    frozen_facts,
    load,
    restore,
    save,
    save_checkpoint,
    sync,
)

__all__ = [
    "NotSaved",
    "check_space",
    "described_recipe",
    "frozen_facts",
    "load",
    "load_reference",
    "read_description",
    "restore",
    "save",
    "save_checkpoint",
    "sync",
]
