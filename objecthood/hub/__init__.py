"""Weights by name: bundled with the package, or from the Hugging Face Hub."""

from objecthood.hub.pretrained import (
    DEFAULT,
    PRETRAINED,
    UNTRAINED,
    Pretrained,
    check_sha256,
    load,
    resolve,
)
from objecthood.runtime.files import sha256_of

__all__ = ["DEFAULT", "PRETRAINED", "UNTRAINED", "Pretrained", "check_sha256", "load", "resolve", "sha256_of"]
