"""Weight initialisation of the reference: Glorot kernels and zero biases (Keras' defaults); and all zero."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def glorot(layer: Layer) -> Layer:
    """`layer` with kernel uniform in +-sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010) and bias 0."""
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def zero(layer: Layer) -> Layer:
    """`layer` with kernel and bias 0."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer
