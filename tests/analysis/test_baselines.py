"""What needs no learning: label maps of colour and place alone, and their scores beside a model's."""

import dataclasses
import json

import pytest
import torch

from objecthood.analysis.baselines import (
    blocks,
    colour_components,
    colour_kmeans,
    feature_cut,
    feature_kmeans,
)
from objecthood.analysis.floors import floors, untrained
from objecthood.cli import main
from objecthood.recipes import RECIPES


def test_components_part_where_colour_jumps_and_join_where_it_drifts():
    image = torch.zeros(1, 3, 12, 12)
    image[0, :, 2:6, 2:6] = 0.5
    image[0, 0, 2:6, 6:10] = 1.0  # touches the square before
    image[0, 2, 8:12] = torch.linspace(0.2, 0.6, 12)  # drifts by less than the threshold a pixel
    labels = colour_components(image)[0]
    places = [labels[0, 0], labels[3, 3], labels[3, 8], labels[9, 0]]
    assert len(set(map(int, places))) == 4 and len(labels.unique()) == 4
    assert labels[9, 0] == labels[11, 11]


def test_specks_go_to_the_nearest_large_region():
    image = torch.zeros(1, 3, 12, 12)
    image[0, :, :, 6:] = 1
    image[0, 1, 5, 1:4] = 0.7  # three pixels
    labels = colour_components(image)[0]
    assert len(labels.unique()) == 2 and (labels[5, 1:4] == labels[0, 0]).all()
    assert len(colour_components(image, fewest_pixels=1)[0].unique()) == 3
    confetti = torch.rand(1, 3, 4, 4)  # nothing is large: all stays
    assert len(colour_components(confetti, distance=0.0)[0].unique()) == 16


def test_components_of_a_clip_last_through_time():
    clip = torch.zeros(1, 3, 3, 12, 12)
    for frame in range(3):
        clip[0, frame, 0, 4:8, 1 + 2 * frame : 5 + 2 * frame] = 1
    labels = colour_components(clip)[0]
    assert labels.shape == (3, 12, 12) and len(labels.unique()) == 2
    assert labels[0, 5, 2] == labels[1, 5, 4] == labels[2, 5, 6] != labels[0, 0, 0]
    clip[0, 2] = 0
    clip[0, 2, 0, 0:3, 8:12] = 1  # jumps away: another object
    assert len(colour_components(clip)[0].unique()) == 3


def test_kmeans_parts_three_colours_and_is_the_same_again():
    image = torch.zeros(2, 3, 12, 12)
    image[:, 0, :, 4:] = 1
    image[:, 1, :, 8:] = 1
    labels = colour_kmeans(image, 3)
    assert [len(labels[0, :, part].unique()) for part in (slice(4), slice(4, 8), slice(8, 12))] == [1, 1, 1]
    assert len(labels[0].unique()) == 3 and torch.equal(labels, colour_kmeans(image, 3))
    noise = torch.rand(2, 3, 12, 12)
    assert torch.equal(colour_kmeans(noise, 4)[1], colour_kmeans(noise[1:], 4, first_index=1)[0])


@pytest.mark.parametrize("divide", [feature_kmeans, feature_cut])
def test_features_part_where_they_differ_whatever_their_length(divide):
    features = torch.zeros(2, 6, 8, 4)
    features[..., :4, 0], features[..., 4:, 1] = 1, 1
    features *= 1 + torch.rand(2, 6, 8, 1, generator=torch.Generator().manual_seed(0))
    labels = divide(features, 2)
    assert labels.shape == (2, 6, 8) and torch.equal(labels, divide(features, 2))
    for one in labels:
        assert len(one.unique()) == 2 and len(one[:, :4].unique()) == len(one[:, 4:].unique()) == 1
    assert torch.equal(divide(features, 3)[1], divide(features[1:], 3, first_index=1)[0])


def test_equal_features_part_by_position():
    labels = feature_kmeans(torch.ones(1, 8, 8, 3), 2)[0]
    halves = [labels.eq(labels[0, 0]).float().mean(dim=dim) for dim in (0, 1)]
    assert labels.flatten().bincount().tolist() == [32, 32] and any(
        set(half.tolist()) == {0, 1} for half in halves
    )


def test_kmeans_with_positions_parts_equal_colours():
    image = torch.zeros(1, 3, 12, 12)
    image[0, 0, :, 6:] = 0.1
    image[0, :, 6:, :] += 0.001
    labels = colour_kmeans(image, 4, position=2.0)[0]
    corners = {int(labels[row, column]) for row in (0, 11) for column in (0, 11)}
    assert len(corners) == 4 and len(labels[:6, :6].unique()) == 1
    clip = image[:, None].expand(1, 2, 3, 12, 12)
    assert torch.equal(*colour_kmeans(clip, 4, position=2.0)[0])


@pytest.mark.parametrize(("asked", "made"), [(1, 1), (2, 2), (4, 4), (6, 6), (7, 9), (9, 9)])
def test_blocks_are_equal_and_at_least_as_many(asked, made):
    labels = blocks(torch.zeros(2, 5, 3, 36, 36), asked)
    assert labels.shape == (2, 5, 36, 36)
    counts = labels[0, 0].flatten().bincount()
    assert len(counts) == made and (counts == 36 * 36 // made).all()


def test_floors_of_sprites_beat_a_fresh_model():
    """Solid colours are solved by their colours: the reason why floors stand beside scores."""
    found = floors(dataclasses.replace(RECIPES["sprites"], restarts=1), num_scenes=16)
    assert list(found) == [
        *("components", "kmeans", "kmeans_position", "blocks"),
        *("untrained", "untrained_no_bias"),
    ]
    assert found["components"]["fg_ari"] > 0.95 > 0.7 > found["blocks"]["fg_ari"] > 0.3
    assert found["untrained"]["fg_ari"] < 0.5


def test_floors_see_what_the_model_sees():
    """Frames of random-dot motion show nothing; the motion between them does."""
    moving = dataclasses.replace(RECIPES["camouflage"], test_frames=4)
    frames = dataclasses.replace(moving, modality="frame")
    assert floors(moving, num_scenes=2)["components"]["frame_fg_ari"] > 0.7
    assert floors(frames, num_scenes=2)["components"]["frame_fg_ari"] < 0.4


def test_an_untrained_model_is_that_of_the_seed_and_leaves_the_generator_alone():
    recipe = dataclasses.replace(RECIPES["tetrominoes"], test_iterations=1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again = (untrained(recipe, num_scenes=2) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state()) and first == again
    assert untrained(dataclasses.replace(recipe, seed=1), num_scenes=2) != first


def test_evaluate_prints_floors_and_says_where_they_win(tmp_path, capsys):
    file, table = tmp_path / "scores.json", tmp_path / "scores.csv"
    options = ["--floors", "--num-scenes", "8", "--restarts", "2", "--json", str(file), "--csv", str(table)]
    assert main.main(["evaluate", "sprites", *options]) == 0
    said = capsys.readouterr().out
    lines = {line.split("  ")[0]: line for line in said.splitlines()}
    assert {"one restart", "best of 2", "baseline: colour components", "baseline: equal blocks"} <= set(lines)
    assert "baseline colour components: FG-ARI" in said and "do not need a learned model" in said
    assert "baseline equal blocks: FG-ARI" not in said
    facts = json.loads(file.read_text())
    assert facts["floors"]["components"]["fg_ari"] > facts["scores"]["fg_ari"] > 0.8
    assert "components/fg_ari," in table.read_text()
