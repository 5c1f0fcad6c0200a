"""What every made data set must keep: the same scene wherever it is made, in the form of the contract."""

import hashlib

import afresh
import torch
from timing import cpu_seconds

from objecthood.data.scene import DEFAULT_SIZE, Dataset, Scenes


def fingerprint(scenes: Scenes) -> str:
    """SHA-256 of images, in 8 bits so that the last bit of a float does not count, and of masks."""
    image = (scenes["image"] * 255).round().to(torch.uint8)
    return hashlib.sha256(image.numpy().tobytes() + scenes["masks"].numpy().tobytes()).hexdigest()


def fingerprint_elsewhere(expression: str, folder) -> str:
    """Of `expression`, scenes, in a fresh process with hashes of its own, other threads, another folder."""
    modules = "import torch; from scenes import fingerprint; from objecthood.data import sprites, tetrominoes"
    code = f"{modules}; torch.set_num_threads(2); print(fingerprint({expression}))"
    return afresh.run(code, folder, {}).strip()


def check_contract(dataset: Dataset, side: int) -> None:
    """Types, shapes, units; empty batches; any sequence of indices."""
    scenes = dataset[[3, 1, 4]]
    assert scenes["image"].dtype == torch.float32 and scenes["image"].shape == (3, 3, side, side)
    assert scenes["masks"].dtype == torch.int64 and scenes["masks"].shape == (3, side, side)
    assert scenes["image"].min() >= 0 and scenes["image"].max() <= 1 and scenes["masks"].min() >= 0
    assert dataset.endless and len(dataset) == DEFAULT_SIZE
    assert fingerprint(dataset[(3, 1, 4)]) == fingerprint(dataset[torch.tensor([3, 1, 4]).numpy()])


def check_same_anywhere(dataset: Dataset) -> None:
    """Alone, in a batch larger than a chunk, and in another order."""
    together = dataset[range(70)]
    for index in (0, 63, 64, 69):
        alone = dataset[[index]]
        assert torch.equal(alone["image"][0], together["image"][index])
        assert torch.equal(alone["masks"][0], together["masks"][index])
    backwards = dataset[range(69, -1, -1)]
    assert torch.equal(backwards["image"].flip(0), together["image"])


def pictures_per_second(dataset: Dataset, count: int) -> float:
    """Of one thread's processor time, the best of three (others may use the machine)."""
    dataset[range(count, count + 64)]
    return count / cpu_seconds(lambda: dataset[range(count)])
