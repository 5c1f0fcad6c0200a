"""The export stages of a model, run in sequence, equal the model."""

import pytest
import torch

from objecthood.export.stages import FirstStage, LastStage, Start, Step, stages_of_discovery
from objecthood.models import autoencoder
from objecthood.models.set_predictor import fast_clevr


def guided() -> autoencoder.SlotAutoencoder:
    return autoencoder.fast_sprites(4, resolution=16, split_slots=True, chromaticity=True)


def gaussian() -> autoencoder.SlotAutoencoder:
    return autoencoder.small_image(12, num_slots=4)


def run_stages(model, images, noise, iterations):
    slots, inputs, bias = FirstStage(model)(images, noise)
    step, attention = Step(model), []
    for _ in range(iterations):
        slots, shares, bias, to_decode = step(slots, inputs, bias)
        attention.append(shares.unflatten(-1, model.feature_grid))
    last = LastStage(model)
    found = dict(zip(last.names, last(to_decode, attention[-1]), strict=True))
    return found | {"slots": to_decode, "attention": torch.stack(attention, dim=1)}


@pytest.mark.parametrize(
    "build",
    [guided, gaussian, autoencoder.fast_tetrominoes, autoencoder.fast_slot_frames, fast_clevr],
)
@pytest.mark.parametrize("num_slots", [1, 3, 4, 6])
def test_stages_in_sequence_equal_the_model(build, num_slots):
    model = build().eval()
    images = torch.rand(2, 3, model.resolution, model.resolution)
    noise = torch.randn(2, num_slots, model.slot_dim)
    with torch.no_grad():
        expected = model(images, num_slots=num_slots, iterations=4, noise=noise)._asdict()
        found = run_stages(model, images, noise, 4)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_slots_are_decoded_independently():
    """The demo page hides slots, or composites them into another image, without another decoder call."""
    model = guided().eval()
    decode = stages_of_discovery(model).decode
    slots, attention = torch.randn(1, 4, 64), torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        together, apart = decode(slots, attention), decode(slots[:, 2:3], attention[:, 2:3])
    assert all(
        torch.allclose(one[:, 2:3], other, atol=1e-6) for one, other in zip(together, apart, strict=True)
    )


def test_noise_scale_is_in_units_of_the_deviation_between_queries():
    model = autoencoder.fast_tetrominoes(num_slots=4)
    start, noise = Start(model), torch.randn(2, 6, 64)
    assert start.is_learned and not Start(gaussian()).is_learned
    queries = model.grouping.initial_slots.queries
    with torch.no_grad():
        still, moved = start(noise, torch.tensor(0.0)), start(noise, torch.tensor(0.5))
    assert torch.equal(still[:, :4], queries.expand(2, -1, -1))
    assert torch.allclose(moved[:, :4] - still[:, :4], 0.5 * queries.std(dim=1, keepdim=True) * noise[:, :4])
    assert torch.equal(moved[:, 4:], still[:, 4:])
