"""Weights by name: those that come with the package, and those of the Hugging Face hub."""

from objecthood.hub.pretrained import (
    DEFAULT,
    PRETRAINED,
    UNTRAINED,
    Pretrained,
    check_sha256,
    load,
    resolve,
    sha256_of,
)

__all__ = ["DEFAULT", "PRETRAINED", "UNTRAINED", "Pretrained", "check_sha256", "load", "resolve", "sha256_of"]
