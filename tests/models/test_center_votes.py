"""The line of the background's colours, objects cut out and pasted, votes, and what learns from them."""

import dataclasses

import pytest
import torch

from objecthood import metrics
from objecthood.models.center_votes import CenterVoteModel, pixel_centers, to_centers
from objecthood.nn.background_line import background_line, off_line
from objecthood.nn.center_votes import CenterVotes
from objecthood.nn.cut_and_paste import UNKNOWN, UNSURE, find_objects, paste_objects
from objecthood.recipes import RECIPES


def scenes(number, side=32, seed=0):
    """Discs of two colours on stripes of two others, in light that fades, and their true labels."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    colors = torch.tensor([[0.8, 0.5, 0.4], [0.4, 0.5, 0.8], [0.2, 0.7, 0.2], [0.7, 0.7, 0.1]])
    images, labels = [], []
    for _ in range(number):
        slope, phase = torch.randint(1, 4, (2,), generator=generator)
        image = colors[(row * slope + column + phase) // 4 % 2]
        label = torch.zeros(side, side, dtype=torch.long)
        for object in (1, 2):
            y, x = torch.randint(6, side - 6, (2,), generator=generator)
            label[(row - y) ** 2 + (column - x) ** 2 < 20] = object
        image = torch.where((label > 0)[..., None], colors[1 + label], image)
        images.append(image.movedim(-1, 0) * torch.linspace(1, 0.7, side))
        labels.append(label)
    return torch.stack(images), torch.stack(labels)


def test_both_colours_of_stripes_are_on_the_line_in_any_light_and_objects_are_not():
    images, labels = scenes(8)
    distance = off_line(images, background_line(images)).norm(dim=1)
    assert (distance[labels == 0] < 0.1).float().mean() > 0.99
    assert (distance[labels > 0] > 0.3).all()


def test_a_line_between_colours_far_apart_costs_more_than_one_between_near_ones():
    """Else the line would take in any object."""
    images = torch.full((1, 3, 32, 32), 0.5)
    images[:, :, 10:14, 10:14] = torch.tensor([0.9, 0.1, 0.1]).view(3, 1, 1)
    distance = off_line(images, background_line(images)).norm(dim=1)[0]
    assert distance[0, 0] < 0.05 and distance[12, 12] > 1


def test_objects_are_numbered_in_each_image():
    foreground = torch.zeros(3, 32, 32, dtype=torch.bool)
    foreground[0, 2:10, 2:10] = foreground[0, 20:28, 20:28] = foreground[2, 5:15, 5:15] = True
    foreground[1, 4:28, 4:8] = foreground[1, 24:28, 4:28] = True  # not compact
    foreground[2, 30, 2] = True
    labels = find_objects(foreground)
    assert labels.flatten(1).amax(dim=1).tolist() == [2, 0, 1]
    assert labels[1].unique().tolist() == [UNKNOWN, 0]
    assert labels[2].unique().tolist() == [UNSURE, 0, 1]


def test_what_is_pasted_lies_where_its_label_says():
    images = torch.zeros(4, 3, 32, 32)
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    images[0, :, 4:10, 6:12], labels[0, 4:10, 6:12] = 0.5, 1
    images[1, :, 20:26, 3:9], labels[1, 20:26, 3:9] = 0.9, 1
    images[2, :, 0:6, 10:16], labels[2, 0:6, 10:16] = 0.2, 1  # touches the border: is not pasted
    images[3], labels[3, 12] = 0.1, UNKNOWN
    torch.manual_seed(0)
    found, pasted = paste_objects(images, labels, rounds=6)
    new = pasted > 1
    assert new.any(dim=(1, 2)).sum() >= 3
    assert set(found[:, 0][new].unique().tolist()) <= {0.5, torch.tensor(0.9).item()}
    assert torch.equal(found[:, 0][~new], images[:, 0][~new]), "the rest stays as it was"
    assert new.sum() > 36


def test_an_object_farther_down_is_in_front():
    images = torch.zeros(2, 3, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    images[0, :, 8:14, 13:19], labels[0, 8:14, 13:19] = 0.5, 1
    images[1, :, 10:24], labels[1, 10:24] = 0.9, 1  # reaches farther down, and to the border
    higher = torch.zeros(32, dtype=torch.bool)
    for seed in range(8):
        torch.manual_seed(seed)
        _, pasted = paste_objects(images, labels, rounds=4)
        higher |= (pasted[1] > 1).any(dim=1)
    assert higher[8:10].all() and not higher[10:].any(), "its lower part is hidden"


def test_offsets_lead_to_the_mean_place_of_what_is_seen():
    labels = torch.zeros(2, 16, 16, dtype=torch.long)
    labels[0, 2:6, 4:8], labels[1, 10:14, 3:5], labels[1, 0, 0] = 1, 2, UNSURE
    ends = to_centers(labels) + pixel_centers(16, 16)
    assert torch.allclose(ends[0, :, 3, 5], torch.tensor([4.0, 6.0]) / 16)
    assert torch.allclose(ends[1, :, 10, 4], torch.tensor([12.0, 4.0]) / 16)


def test_centres_are_the_mean_of_noisy_votes_and_other_slots_are_empty():
    torch.manual_seed(0)
    foreground, votes = torch.zeros(1, 32, 32), torch.zeros(1, 2, 32, 32)
    foreground[0, 8:16, 4:12], foreground[0, 8:16, 12:20] = 0.9, 0.8
    votes[0, :, :, :12], votes[0, 0, :, 12:], votes[0, 1, :, 12:] = 0.3, 0.3, 0.5
    centers, masks = CenterVotes(num_slots=5)(foreground, votes + 0.02 * torch.randn(1, 2, 32, 32))
    assert torch.allclose(masks.sum(dim=2), torch.ones(1, 3, 32, 32))
    assert torch.allclose(centers[0, 1:3, 1].sort().values, torch.tensor([0.3, 0.5]), atol=0.01)
    assert not centers[0, 3:].any() and not masks[0, -1, 3:].any()
    sure = masks[0, -1].argmax(dim=0)
    assert sure[10, 4:12].unique().numel() == sure[10, 12:20].unique().numel() == 1
    assert sure[10, 5] != sure[10, 15] and sure[0, 0] == 0


def test_without_foreground_all_is_background():
    output = CenterVoteModel(resolution=32, num_slots=3).segment(torch.rand(1, 3, 32, 32))
    assert not output.slots.isnan().any()
    _, masks = CenterVotes(3)(torch.zeros(1, 32, 32), torch.rand(1, 2, 32, 32))
    assert (masks[:, :, 0] == 1).all()


def test_it_learns_objects_without_labels():
    recipe = dataclasses.replace(RECIPES["center-votes"], resolution=32, num_slots=4)
    torch.manual_seed(0)
    model = recipe.build_model()
    images, _ = scenes(8, seed=1)
    optimizers = recipe.build_optimizers(model)
    for _ in range(20):
        recipe.loss(model, {"image": images}, 0).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    images, labels = scenes(8, seed=2)
    scores = metrics.discovery_scores(labels, model.eval().segment(images).masks)
    assert scores["ari"].mean() > 0.5 and scores["fg_ari"].nanmean() > 0.4, scores


def test_a_side_that_cannot_be_halved_four_times_is_refused():
    with pytest.raises(ValueError, match=r"`resolution` \(=40\) must be a multiple of 16"):
        CenterVoteModel(resolution=40)
