"""A model taken apart and put together again is the model."""

import pytest
import torch

from objecthood.export.stages import Begin, Finish, Start, Step, stages_of_discovery
from objecthood.models import autoencoder
from objecthood.models.set_predictor import fast_clevr


def guided() -> autoencoder.SlotAutoencoder:
    return autoencoder.fast_sprites(4, resolution=16, split_slots=True, chromaticity=True)


def gaussian() -> autoencoder.SlotAutoencoder:
    return autoencoder.small_image(12, num_slots=4)


def put_together(model, images, noise, iterations):
    slots, inputs, bias = Begin(model)(images, noise)
    step, attention = Step(model), []
    for _ in range(iterations):
        slots, shares, bias, seen = step(slots, inputs, bias)
        attention.append(shares.unflatten(-1, model.feature_grid))
    finish = Finish(model)
    found = dict(zip(finish.names, finish(seen, attention[-1]), strict=True))
    return found | {"slots": seen, "attention": torch.stack(attention, dim=1)}


@pytest.mark.parametrize(
    "build",
    [guided, gaussian, autoencoder.fast_tetrominoes, autoencoder.fast_slot_frames, fast_clevr],
)
@pytest.mark.parametrize("num_slots", [1, 3, 4, 6])
def test_parts_in_a_row_are_the_model(build, num_slots):
    model = build().eval()
    images = torch.rand(2, 3, model.resolution, model.resolution)
    noise = torch.randn(2, num_slots, model.slot_dim)
    with torch.no_grad():
        expected = model(images, num_slots=num_slots, iterations=4, noise=noise)._asdict()
        found = put_together(model, images, noise, 4)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.allclose(found[name], expected[name], atol=1e-5), name


def test_slots_are_painted_alone():
    """What lets the page leave a slot away, or show it in another image, without asking the model again."""
    model = guided().eval()
    paint = stages_of_discovery(model).paint
    slots, attention = torch.randn(1, 4, 64), torch.rand(1, 4, 8, 8)
    with torch.no_grad():
        together, apart = paint(slots, attention), paint(slots[:, 2:3], attention[:, 2:3])
    assert all(
        torch.allclose(one[:, 2:3], other, atol=1e-6) for one, other in zip(together, apart, strict=True)
    )


def test_spread_moves_learned_queries_by_their_own_deviation():
    model = autoencoder.fast_tetrominoes(num_slots=4)
    start, noise = Start(model), torch.randn(2, 6, 64)
    assert start.is_learned and not Start(gaussian()).is_learned
    queries = model.grouping.initial_slots.queries
    with torch.no_grad():
        still, moved = start(noise, torch.tensor(0.0)), start(noise, torch.tensor(0.5))
    assert torch.equal(still[:, :4], queries.expand(2, -1, -1))
    assert torch.allclose(moved[:, :4] - still[:, :4], 0.5 * queries.std(dim=1, keepdim=True) * noise[:, :4])
    assert torch.equal(moved[:, 4:], still[:, 4:])
