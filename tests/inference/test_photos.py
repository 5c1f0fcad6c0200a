"""`oh.predict("photos", ...)`: photographs of any size are divided, and masks come back at their own size."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import objecthood as oh
from objecthood.cli.main import main
from objecthood.inference.predict_video import predict_video
from objecthood.models import of_photographs, spectral


def drawn(width, height):
    """An image of two large objects, and which pixels are theirs."""
    image, labels = Image.new("RGB", (width, height), (90, 140, 70)), Image.new("L", (width, height))
    for number, (left, colour) in enumerate(((0.1, (200, 40, 40)), (0.6, (40, 60, 200))), 1):
        box = (left * width, 0.25 * height, (left + 0.3) * width, 0.85 * height)
        ImageDraw.Draw(image).ellipse(box, fill=colour)
        ImageDraw.Draw(labels).ellipse(box, fill=number)
    return np.asarray(image), np.asarray(labels)


@pytest.fixture(scope="module")
def seen():
    images = [drawn(300, 160), drawn(120, 200)]
    return [truth for _, truth in images], oh.predict("photos", [image for image, _ in images])


def test_objects_are_found_at_the_own_size_of_every_image(seen):
    for truth, result in zip(*seen, strict=True):
        assert result.labels.shape == truth.shape and result.labels.min() >= 0
        for number in (1, 2):
            inside = result.labels[truth == number]
            slot = np.bincount(inside).argmax()
            overlap = ((result.labels == slot) & (truth == number)).sum()
            assert overlap / ((result.labels == slot) | (truth == number)).sum() > 0.6


def test_masks_sum_to_one_and_each_slot_has_a_vector_of_unit_length(seen):
    for result in seen[1]:
        torch.testing.assert_close(result.masks.sum(dim=0), torch.ones_like(result.masks[0]))
        torch.testing.assert_close(result.slots.norm(dim=1), torch.ones(len(result.slots)))
        assert len(result.slots) == len(result.masks) and not result.warning


def test_the_number_of_slots_can_be_chosen_and_the_same_image_gives_the_same():
    image, _ = drawn(200, 200)
    one, other = (oh.predict("photos", image, num_slots=4)[0] for _ in range(2))
    assert len(one.masks) == 4 and np.array_equal(one.labels, other.labels)


def test_large_images_are_divided_small_and_labelled_large():
    image, _ = drawn(900, 300)
    (result,) = oh.predict("photos", image)
    assert result.image.shape == (3, 213, of_photographs.LONGEST) and result.labels.shape == (300, 900)


def test_the_command_writes_overlay_masks_and_cutouts(tmp_path, capsys):
    Image.fromarray(drawn(160, 120)[0]).save(tmp_path / "street.png")
    out = tmp_path / "out"
    line = ["predict", str(tmp_path / "street.png"), "--weights", "photos", "--out", str(out)]
    assert main([*line, "--also", "cutouts", "--no-animation"]) == 0
    with Image.open(out / "street-masks.png") as masks:
        assert masks.size == (160, 120)
    assert (out / "street-overlay.png").is_file() and any((out / "street-cutouts").iterdir())


def overlap_of_best(labels, truth):
    return max(((labels == k) & truth).sum() / ((labels == k) | truth).sum() for k in np.unique(labels))


def test_small_objects_are_found_where_asked():
    image, labels = drawn(320, 240)
    small = Image.fromarray(image)
    ImageDraw.Draw(small).rectangle((155, 30, 166, 41), fill=(240, 230, 60))
    truth = np.zeros((240, 320), bool)
    truth[30:42, 155:167] = True
    (plain,), (fine,) = (oh.predict("photos", np.asarray(small), fine=fine) for fine in (False, True))
    assert overlap_of_best(fine.labels, truth) > max(0.4, overlap_of_best(plain.labels, truth) + 0.1)
    assert overlap_of_best(fine.labels, labels == 1) > 0.6, "large ones stay"
    assert len(fine.slots) == len(fine.masks) > len(plain.masks)
    torch.testing.assert_close(fine.masks.sum(dim=0), torch.ones_like(fine.masks[0]))
    torch.testing.assert_close(fine.attention.sum(dim=1), torch.ones_like(fine.attention[:, 0]))
    torch.testing.assert_close(fine.slots.norm(dim=1), torch.ones(len(fine.slots)))


def test_the_command_passes_fine_on_and_other_weights_refuse_it(tmp_path, monkeypatch, capsys):
    Image.fromarray(drawn(64, 48)[0]).save(tmp_path / "yard.png")
    asked = []
    monkeypatch.setattr(spectral.SpectralSegmenter, "finer", lambda self: asked.append(1) or self)
    line = ["predict", str(tmp_path / "yard.png"), "--out", str(tmp_path / "out"), "--fine"]
    assert main(line) == 0 and asked == [1]
    assert main([*line, "--weights", "sprites"]) == 1
    assert "`fine` (=True) needs weights" in capsys.readouterr().err


def test_what_it_cannot_do_is_refused_in_one_line(tmp_path, capsys):
    assert main(["evaluate", "photos"]) == 2 and "cannot be evaluated" in capsys.readouterr().err
    with pytest.raises(ValueError, match="segments do not persist over frames"):
        predict_video(oh.load("photos"), tmp_path / "clip.mp4", tmp_path / "out")
    with pytest.raises(ValueError, match="must be 1 for these weights"):
        oh.predict("photos", drawn(64, 64)[0], restarts=2)
