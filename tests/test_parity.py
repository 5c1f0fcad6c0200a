"""The same numbers as the reference implementation, executed once (see shared/data/README.md)."""

import numpy as np
import pytest
import torch
from torch import Tensor

from objecthood import losses, metrics
from objecthood.checkpoint import load_reference
from objecthood.nn import Grouping


def arrays(path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours.detach(), theirs, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def module_run(shared_data):
    """The golden arrays, our module, its inputs and its output after backward of the golden loss."""
    path = shared_data / "parity" / "slot_attention.npz"
    golden, module = arrays(path), load_reference(path)
    inputs = golden["inputs"].clone().requires_grad_()
    output = module(inputs, noise=golden["noise"])
    loss = (output.slots - golden["loss_target"]).square().mean()
    loss.backward()
    return golden, module, inputs, output, loss


def test_module_gives_the_reference_slots_and_attention(module_run):
    golden, _, _, output, loss = module_run
    close(output.slots, golden["slots"], 1e-5)
    close(output.attention, golden["attention"], 1e-5)
    close(loss, golden["loss"], 1e-5)


def test_module_gives_the_reference_gradients(module_run):
    golden, module, inputs, _, _ = module_run
    attention, initial = module.slot_attention, module.initial_slots
    ours = {
        "grad_project_q": attention.project_q.weight.grad.T,
        "grad_project_k": attention.project_k.weight.grad.T,
        "grad_project_v": attention.project_v.weight.grad.T,
        "grad_slots_mu": initial.slots_mu.grad,
        "grad_slots_log_sigma": initial.slots_log_sigma.grad,
        "grad_inputs": inputs.grad,
    }
    assert ours.keys() == {key for key in golden if key.startswith("grad_")}
    for name, gradient in ours.items():
        close(gradient, golden[name], 1e-5)
        assert golden[name].abs().max() > 1e-4, f"{name} is so small that anything would be near it"


def test_autoencoder_gives_the_reference_images(shared_data):
    path = shared_data / "parity" / "autoencoder_clevr.npz"
    golden, model = arrays(path), load_reference(path)
    image = (golden["image"].permute(0, 3, 1, 2) + 1) / 2
    with torch.no_grad():
        scene = model(image, noise=golden["noise"])
    close(scene.reconstruction * 2 - 1, golden["reconstruction"].permute(0, 3, 1, 2), 1e-4)
    close(scene.masks, golden["masks"][..., 0], 1e-4)
    close(scene.slots, golden["slots"], 1e-4)
    close(losses.reconstruction_error(scene.reconstruction, image), golden["loss"], 1e-4)
    # Stored in 16 bits: 11 bits of mantissa, so half a unit in the last place beside the common tolerance.
    appearance = golden["appearance"].float().permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(scene.appearance * 2 - 1, appearance, rtol=2**-11, atol=1e-4)


def test_metrics_give_the_reference_scores(shared_data):
    golden = arrays(shared_data / "parity" / "segmentation_metrics.npz")
    true_masks, predicted = golden["true_masks"].long(), golden["predicted_masks"].long()
    ours = {
        "ari": metrics.adjusted_rand_index(true_masks, predicted, ignore_background=False),
        "fg_ari": metrics.adjusted_rand_index(true_masks, predicted, ignore_background=True),
        "mbo": metrics.mean_best_overlap(true_masks, predicted),
    }
    assert golden["mbo"].isnan().any(), "the golden set holds images without objects"
    for name, scores in ours.items():
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores, golden[name], rtol=0, atol=1e-9, equal_nan=True)


def test_set_predictor_gives_the_reference_properties(shared_data):
    path = shared_data / "parity" / "set_predictor_clevr.npz"
    golden, model = arrays(path), load_reference(path)
    with torch.no_grad():
        output = model((golden["image"].permute(0, 3, 1, 2) + 1) / 2, noise=golden["noise"])
    close(output.properties, golden["predictions"], 1e-4)


def test_set_metrics_give_the_reference_scores(shared_data):
    golden = arrays(shared_data / "parity" / "set_metrics.npz")
    target = golden["target"]
    for number in range(3):
        predicted = golden[f"prediction_{number}"]
        close(losses.matching_loss(predicted.double(), target.double()), golden[f"loss_{number}"], 1e-6)
        # Some flags are equal, and how NumPy's sort orders these depends on the processor: with all orders of
        # them tried, one must give the reference's scores.
        exact = [
            average_precisions(nudged(predicted, seed), target, golden["thresholds"]) for seed in range(300)
        ]
        error = min((scores - golden[f"ap_{number}"]).abs().max().item() for scores in exact)
        assert error < 1e-6
        ours = average_precisions(predicted, target, golden["thresholds"])
        assert min((scores - ours).abs().max().item() for scores in exact) < 1e-6


def average_precisions(predicted: Tensor, target: Tensor, thresholds: Tensor) -> Tensor:
    scores = [
        metrics.average_precision(predicted, target, distance_threshold=threshold)
        for threshold in thresholds.tolist()
    ]
    return torch.tensor(scores, dtype=torch.float64)


def nudged(predicted: Tensor, seed: int) -> Tensor:
    """Flags moved by less than float32 resolves, so that equal ones fall into a random order."""
    moved = predicted.double()
    noise = torch.rand(moved.shape[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved[:, :, 18] += 1e-12 * noise
    return moved


def saved(tmp_path, **replaced: np.ndarray):
    """A small module of the reference's layout as .npz, some arrays replaced."""
    wanted = {
        "project_q.0": (8, 8),
        "project_k.0": (6, 8),
        "project_v.0": (6, 8),
        "gru.0": (8, 24),
        "gru.1": (8, 24),
        "gru.2": (2, 24),
        "mlp.0": (8, 10),
        "mlp.1": (10,),
        "mlp.2": (10, 8),
        "mlp.3": (8,),
        "slots_mu.0": (1, 1, 8),
        "slots_log_sigma.0": (1, 1, 8),
    }
    wanted |= {f"norm_{name}.{index}": (8,) for name in ("slots", "mlp") for index in (0, 1)}
    wanted |= {"norm_inputs.0": (6,), "norm_inputs.1": (6,)}
    content = {f"w.{key}": np.zeros(shape, np.float32) for key, shape in wanted.items()}
    path = tmp_path / "reference.npz"
    np.savez(path, **(content | replaced))
    return path


def test_any_sizes_load(tmp_path):
    module = load_reference(saved(tmp_path))
    assert isinstance(module, Grouping)
    assert module(torch.randn(2, 5, 6), noise=torch.randn(2, 3, 8)).slots.shape == (2, 3, 8)


@pytest.mark.parametrize(
    "name, shape",
    [("w.mlp.3", (9,)), ("w.gru.2", (2, 21)), ("w.norm_slots.0", (6,)), ("w.project_v.0", (5, 8))],
)
def test_wrong_shapes_are_refused_in_one_line(tmp_path, name, shape):
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_reference(saved(tmp_path, **{name: np.zeros(shape, np.float32)}))
    assert "\n" not in str(caught.value)


def test_foreign_arrays_are_told_in_one_line(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, **{"w.dense.0": np.zeros((2, 2)), "losses": np.zeros(3)})
    with pytest.raises(ValueError, match=r"other\.npz holds neither .*dense\.0") as caught:
        load_reference(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["w.gru.0", "w.mlp.2", "w.slots_mu.0", "w.norm_mlp.1"])
def test_a_missing_layer_is_a_value_error(tmp_path, missing):
    path = saved(tmp_path)
    with np.load(path) as file:
        content = {key: file[key] for key in file.files if key != missing}
    np.savez(path, **content)
    with pytest.raises(ValueError, match=missing[2:].replace(".", r"\.")) as caught:
        load_reference(path)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_arrays_are_value_errors(tmp_path):
    for name, content in {"text.npz": b"not arrays", "empty.npz": b"", "cut.npz": b"PK\x03\x04 cut"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as caught:
            load_reference(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="missing"):
        load_reference(tmp_path / "missing.npz")
