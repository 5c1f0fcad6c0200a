"""Slot-centric reference frames: the equation, and translation invariance."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from objecthood.data.randomness import restart_noise
from objecthood.models import autoencoder
from objecthood.nn.slot_frames import (
    SlotCentredPatchDecoder,
    SlotFrameReadout,
    cell_centres,
    centres,
    crop,
    spiral,
)
from objecthood.recipes import RECIPES


def blob(rows, columns, top, left, side=4):
    """Attention of two slots on a grid: one holds a square, the other the rest."""
    square = torch.zeros(1, 1, rows, columns)
    square[..., top : top + side, left : left + side] = 0.9
    return torch.cat([square, 1 - square], dim=1)


def test_readout_equals_a_loop():
    torch.manual_seed(0)
    read = SlotFrameReadout(input_dim=5, slot_dim=6, resolution=24, waves=3, finest=2.0).double()
    inputs, attention = torch.randn(2, 12, 5).double(), torch.rand(2, 3, 3, 4).softmax(dim=1).double()
    slots = torch.randn(2, 3, 6).double()
    amplitudes, where, centre = read.amplitudes(inputs), cell_centres(attention), centres(attention, 24) / 24
    for picture in range(2):
        for slot in range(3):
            share = attention[picture, slot].flatten()
            even, odd = [0.0] * 3, [0.0] * 3
            for place in range(12):
                weight = share[place].item() / (share.sum().item() + 1e-6)
                for wave in range(3):
                    angle = (where[place] - centre[picture, slot]).double() @ read.frequencies[wave]
                    even[wave] += weight * amplitudes[picture, place, wave].item() * math.cos(angle)
                    odd[wave] += weight * amplitudes[picture, place, 3 + wave].item() * math.sin(angle)
            seen = torch.tensor(even + odd).double()
            expected = read.keep(slots[picture, slot]) + read.output(seen)
            assert torch.allclose(read(slots, inputs, attention)[picture, slot], expected, atol=1e-6)


def test_readout_is_translation_invariant():
    torch.manual_seed(0)
    read = SlotFrameReadout(input_dim=8, slot_dim=16, resolution=36)
    inputs = torch.randn(1, 8, 18, 18)
    slots = torch.randn(1, 2, 16)
    moved = inputs.roll((5, -3), dims=(2, 3))
    one = read(slots, inputs.flatten(2).mT, blob(18, 18, 4, 9))[:, 0]
    other = read(slots, moved.flatten(2).mT, blob(18, 18, 9, 6))[:, 0]
    unlike = read(slots, inputs.flatten(2).mT, blob(18, 18, 9, 6))[:, 0]
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, unlike, atol=1e-2)


@pytest.mark.parametrize("rows, columns", [(0, 1), (3, 0), (2, 3), (-2, -1)])
def test_decoder_is_translation_equivariant(rows, columns):
    """Moved by cells of a grid of 16, a painting of 32 pixels moves by twice as many pixels, to the pixel."""
    torch.manual_seed(0)
    paint = SlotCentredPatchDecoder(slot_dim=6, resolution=32, patch=5)
    slots = torch.randn(1, 2, 6)
    here = paint(slots, blob(16, 16, 5, 6)).appearance[0, 0]
    there = paint(slots, blob(16, 16, 5 + rows, 6 + columns)).appearance[0, 0]
    back = there.roll((-2 * rows, -2 * columns), dims=(1, 2))
    inner = slice(8, 24)
    assert torch.allclose(here[:, inner, inner], back[:, inner, inner], atol=1e-6)
    assert here[:, inner, inner].std() > 1e-3


@pytest.mark.parametrize("resolution, patch", [(35, 5), (35, 7), (16, 4), (9, 4)])
def test_every_pixel_is_decoded_by_its_cell(resolution, patch):
    """Also where the centre is in a corner: pixels are those of the whole canvas, painted without a cut."""
    torch.manual_seed(0)
    paint = SlotCentredPatchDecoder(slot_dim=6, resolution=resolution, patch=patch, depth=1)
    slots, attention = torch.randn(1, 3, 6), torch.zeros(1, 3, resolution, resolution)
    corners = [(0, 0), (resolution - 1, 0), (resolution - 1, resolution // 2)]
    for slot, (row, column) in enumerate(corners):
        attention[0, slot, row, column] = 1
    found = paint(slots, attention).appearance[0]
    middle = centres(attention, resolution)[0]
    for slot in range(3):
        for row, column in [(0, 0), (resolution // 2, 1), (resolution - 1, resolution - 1)]:
            away = torch.tensor([row, column]) - middle[slot]
            cell = away.div(patch, rounding_mode="floor")
            place = (cell + 0.5) * patch / resolution
            angle = place @ paint.frequencies.T
            position = paint.from_position(torch.cat([place, angle.cos(), angle.sin()]))
            hidden = slots[0, slot] + position
            hidden = paint.layers[0](hidden.relu())
            patch_of_cell = paint.output(hidden.relu()).view(4, patch, patch)
            inside = away - cell * patch
            expected = patch_of_cell[:3, inside[0], inside[1]]
            assert torch.allclose(found[slot, :, row, column], expected, atol=1e-5)


def test_masks_are_attention_conditioned():
    paint = SlotCentredPatchDecoder(slot_dim=6, resolution=16, patch=4)
    attention = blob(8, 8, 2, 2)
    painting = paint(torch.randn(1, 2, 6), attention)
    guide = painting.mask_logits - painting.unconditioned_logits
    assert torch.allclose(guide[0, 0, 6, 6], torch.tensor(0.9).log(), atol=1e-2)


def test_the_centre_of_an_empty_slot_is_the_middle():
    assert torch.equal(centres(torch.full((1, 4, 6, 6), 0.25), 30), torch.full((1, 4, 2), 15))


@pytest.mark.parametrize("off", [-1e-6, 0.0, 1e-6])
def test_the_middle_of_an_odd_image_does_not_depend_on_rounding(off):
    held = torch.zeros(1, 1, 18, 18)
    held[..., :9], held[..., 9:] = 0.75, 0.75 + off
    assert centres(held, 35)[0, 0].tolist() == [18, 18] == centres(held.mT, 35)[0, 0].tolist()


def test_crops_are_squares_at_their_corners():
    canvas = torch.arange(2 * 7 * 7).float().view(2, 1, 7, 7)
    found = crop(canvas, torch.tensor([[0, 2], [3, 1]]), 4)
    assert torch.equal(found[0, 0], canvas[0, 0, 0:4, 2:6]) and torch.equal(
        found[1, 0], canvas[1, 0, 3:7, 1:5]
    )


def test_frequencies_fill_the_disc():
    lengths = spiral(64, 7.0).norm(dim=-1) / (2 * torch.pi)
    assert lengths.max() < 7.0 and lengths[-1] > 6.9 and lengths[0] < 1.0
    assert (lengths < 7.0 / 2**0.5).sum() == 32  # as many per area within as without


def test_both_work_in_double_precision():
    attention = blob(8, 8, 2, 2).double()
    slots = SlotFrameReadout(input_dim=5, slot_dim=6, resolution=16).double()(
        torch.randn(1, 2, 6).double(), torch.randn(1, 64, 5).double(), attention
    )
    painting = SlotCentredPatchDecoder(slot_dim=6, resolution=16, patch=4).double()(slots, attention)
    assert slots.dtype == painting.appearance.dtype == painting.unconditioned_logits.dtype == torch.float64


@pytest.mark.parametrize("build", [autoencoder.fast_slot_frames, autoencoder.fast_sprites])
def test_the_restart_of_lowest_error_is_returned(build):
    """By the slots' own masks where these are trained, else by the guided ones; images are encoded once."""
    torch.manual_seed(0)
    model = build(num_slots=3, resolution=16, bias_before_attention=True, noise_scale=0.5).eval()
    assert model.unconditioned_masks == (build is autoencoder.fast_slot_frames)
    images, noise = torch.rand(4, 3, 16, 16), torch.randn(5, 4, 3, 64)
    encoded = []
    model.encoder.register_forward_hook(lambda *call: encoded.append(len(call[2])))
    with torch.no_grad():
        found = model.segment(images, iterations=2, noise=noise)
        assert encoded == [4]
        looks = [model(images, iterations=2, noise=start) for start in noise]
        errors = []
        for start in noise:
            painting = model.decode(model.encode(images), iterations=2, noise=start)[0]
            logits = painting.unconditioned_logits if model.unconditioned_masks else painting.mask_logits
            painted = model.composite(painting.appearance, logits)[0]
            errors.append((painted - images).square().mean(dim=(1, 2, 3)))
    best = torch.stack(errors).argmin(dim=0)
    assert len(set(best.tolist())) > 1, "one start is best of all: the test says nothing"
    for picture, start in enumerate(best.tolist()):
        for name, value in found.found().items():
            torch.testing.assert_close(value[picture], getattr(looks[start], name)[picture])


def test_no_restart_is_refused():
    model = autoencoder.fast_slot_frames(num_slots=3, resolution=35)
    with pytest.raises(ValueError, match="at least one restart; got none"):
        model.segment(torch.rand(1, 3, 35, 35), noise=torch.randn(0, 1, 3, 64))


@pytest.mark.parametrize("name", ["tetrominoes-guided", "sprites"])
def test_restarts_are_those_of_the_recipe(name):
    recipe = replace(RECIPES[name], restarts=3, test_iterations=2)
    slots = recipe.num_slots
    model = recipe.prepare_for_test(recipe.build_model())
    assert model.restarts == 3 and "of 3 restarts the one of lowest reconstruction error" in recipe.protocol
    images, indices = recipe.dataset("validation")[range(6)]["image"], np.arange(6)
    with torch.no_grad():
        found = [
            replace(recipe, restarts=restarts).discover(model, images, torch.arange(6)) for restarts in (1, 3)
        ]
        for restarts, scene in zip((1, 3), found, strict=True):
            noise = restart_noise(indices, restarts, slots, 64)
            assert noise.shape == (restarts, 6, slots, 64)
            assert torch.equal(model.segment(images, iterations=2, noise=noise).masks, scene.masks)
    assert torch.equal(restart_noise(indices, 3, 4, 64)[0], restart_noise(indices, 1, 4, 64)[0])
    assert not torch.equal(found[0].masks, found[1].masks)
    assert model.grouping.initial_slots.noise_scale == 0.5
    assert replace(recipe, restarts=1).build_model().grouping.initial_slots.noise_scale == 0
    with pytest.raises(ValueError, match=r"`restarts` \(=0\) must be at least 1"):
        replace(recipe, restarts=0)
