"""Load arrays of the reference implementation (Keras) into PyTorch modules with the same numerics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from objecthood.data.io.archives import ArchiveError, read_arrays
from objecthood.models import autoencoder, set_predictor
from objecthood.models.autoencoder import SlotAutoencoder
from objecthood.models.set_predictor import SetPredictor
from objecthood.nn import GaussianSlots, Grouping, SlotAttention


def load_reference(path: str | Path) -> nn.Module:
    """The module whose weights are in `path`, an .npz of the reference implementation's Keras arrays.

    Keys are `w.<layer>.<index>` in Keras' layouts: Dense [in, out]; Conv2D [height, width, in, out];
    Conv2DTranspose [height, width, out, in]; GRU kernel, recurrent kernel and two biases with gates in the
    order z, r, h. The layers decide the module: a `Grouping`, called `module(inputs, noise=...)`, or a
    `SlotAutoencoder` or `SetPredictor`, called `module(images, noise=...)`.

    Raises ValueError if an array is missing or has another shape.
    """
    weights, num_slots = _read(path)
    try:
        if "mlp_classifier.0" in weights:
            return _load_set_predictor(weights, num_slots)
        if "decoder_cnn.0" in weights:
            return _load_autoencoder(weights, num_slots)
        if "project_q.0" in weights:
            return _load_grouping(weights, num_slots)
    except KeyError as error:
        raise ValueError(f"{path} has no array w.{error.args[0]} of the reference") from error
    raise ValueError(
        f"{path} holds neither the module nor a model of the reference: layers {sorted(weights)[:5]}"
    )


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], int]:
    """The weights of an .npz, and the number of slots of its noise (7 without noise)."""
    try:
        arrays = read_arrays(path)
    except ArchiveError as error:
        raise ValueError(f"{path} is not a complete .npz of plain arrays: {error}") from error
    weights = {key[2:]: array for key, array in arrays.items() if key.startswith("w.")}
    noise = arrays.get("noise", np.empty((1, 7, 0)))
    if noise.ndim != 3:
        raise ValueError(f"{path} has noise of shape {noise.shape}; it must be batch, slots, dim")
    return weights, noise.shape[1]


def _load_grouping(weights: dict[str, np.ndarray], num_slots: int) -> Grouping:
    input_dim, slot_dim = weights["project_k.0"].shape
    hidden_dim = weights["mlp.0"].shape[1]
    module = Grouping(
        GaussianSlots(num_slots, slot_dim),
        SlotAttention(input_dim, slot_dim, iterations=3, hidden_dim=hidden_dim),
    )
    _fill(module, _grouping_state(weights, prefix=""))
    return module.eval()


def _load_autoencoder(weights: dict[str, np.ndarray], num_slots: int) -> SlotAutoencoder:
    model = autoencoder.clevr(num_slots)
    state = _model_state(weights) | _dense(weights, "decoder_pos", "decoder.position.dense")
    for index, layer in enumerate(model.decoder.layers):
        kernel = weights[f"decoder_cnn.{2 * index}"]
        if isinstance(layer, nn.ConvTranspose2d):
            kernel = kernel.transpose(3, 2, 0, 1)
        else:  # at stride 1 a transposed convolution is a convolution with the kernel rotated by 180 degrees
            kernel = kernel[::-1, ::-1].transpose(2, 3, 0, 1)
        state[f"decoder.layers.{index}.weight"] = _tensor(kernel)
        state[f"decoder.layers.{index}.bias"] = _tensor(weights[f"decoder_cnn.{2 * index + 1}"])
    _fill(model, state)
    return model.eval()


def _load_set_predictor(weights: dict[str, np.ndarray], num_slots: int) -> SetPredictor:
    model = set_predictor.clevr(num_slots)
    _fill(model, _model_state(weights) | _mlp(weights, "mlp_classifier", "head"))
    return model.eval()


def _model_state(weights: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """What both models have: the encoder and the grouping."""
    grouping = _grouping_state(weights, "slot_attention.")
    state = {f"grouping.{name}": tensor for name, tensor in grouping.items()}
    state |= _dense(weights, "encoder_pos", "encoder.position.dense")
    state |= _norm(weights, "layer_norm", "encoder.norm") | _mlp(weights, "mlp", "encoder.mlp")
    num_layers = sum(key.startswith("encoder_cnn.") for key in weights) // 2
    for index in range(num_layers):
        kernel = weights[f"encoder_cnn.{2 * index}"].transpose(3, 2, 0, 1)
        state[f"encoder.convolutions.{index}.weight"] = _tensor(kernel)
        state[f"encoder.convolutions.{index}.bias"] = _tensor(weights[f"encoder_cnn.{2 * index + 1}"])
    return state


def _grouping_state(weights: dict[str, np.ndarray], prefix: str) -> dict[str, Tensor]:
    weights = {key.removeprefix(prefix): array for key, array in weights.items() if key.startswith(prefix)}
    state = {
        f"initial_slots.{name}": _tensor(weights[f"{name}.0"]) for name in ("slots_mu", "slots_log_sigma")
    }
    attention = {f"project_{name}.weight": _tensor(weights[f"project_{name}.0"].T) for name in "qkv"}
    for name in ("norm_inputs", "norm_slots", "norm_mlp"):
        attention |= _norm(weights, name, name)
    attention |= _mlp(weights, "mlp", "mlp")
    attention["gru.weight_ih"] = _tensor(_torch_gates(weights["gru.0"]).T)
    attention["gru.weight_hh"] = _tensor(_torch_gates(weights["gru.1"]).T)
    attention["gru.bias_ih"], attention["gru.bias_hh"] = map(_tensor, _torch_gates(weights["gru.2"]))
    return state | {f"slot_attention.{name}": tensor for name, tensor in attention.items()}


def _torch_gates(array: np.ndarray) -> np.ndarray:
    """Columns ordered update, reset, candidate (Keras) as reset, update, candidate (PyTorch)."""
    update, reset, candidate = np.split(array, 3, axis=-1)
    return np.concatenate([reset, update, candidate], axis=-1)


def _dense(weights: dict[str, np.ndarray], source: str, target: str, first: int = 0) -> dict[str, Tensor]:
    kernel, bias = weights[f"{source}.{first}"], weights[f"{source}.{first + 1}"]
    return {f"{target}.weight": _tensor(kernel.T), f"{target}.bias": _tensor(bias)}


def _mlp(weights: dict[str, np.ndarray], source: str, target: str) -> dict[str, Tensor]:
    return _dense(weights, source, f"{target}.0") | _dense(weights, source, f"{target}.2", first=2)


def _norm(weights: dict[str, np.ndarray], source: str, target: str) -> dict[str, Tensor]:
    scale, shift = weights[f"{source}.0"], weights[f"{source}.1"]
    return {f"{target}.weight": _tensor(scale), f"{target}.bias": _tensor(shift)}


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def _fill(module: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"the reference's arrays do not fit the module: {' '.join(str(error).split())}"
        ) from error
