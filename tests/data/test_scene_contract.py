"""Every data set is a `torch.utils.data.Dataset` of scenes that `DataLoader` takes as it is."""

from __future__ import annotations

import importlib
import importlib.util
import math
import pickle
import pkgutil
from collections.abc import Callable
from pathlib import Path

import afresh
import numpy as np
import pytest
import torch
from PIL import Image
from published_sets import write_davis
from sources import WRITERS, opened
from torch.utils.data import DataLoader, random_split

import objecthood.data
from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.clip_folder import ClipFolder
from objecthood.data.generated.camouflage import Camouflage
from objecthood.data.generated.moving_sprites import MovingSprites
from objecthood.data.generated.sprites import Sprites
from objecthood.data.generated.tetrominoes import Tetrominoes
from objecthood.data.generated.texture import Texture
from objecthood.data.on_device import OnDevice
from objecthood.data.scene import DEFAULT_SIZE, Dataset, EndlessDataset, Scenes
from objecthood.motion.fields import MotionFields
from objecthood.recipes.sources import READ_FROM_FILES, Untouched

SIZE = 5
GENERATED: dict[str, Callable[..., EndlessDataset]] = {
    "tetrominoes": lambda size=SIZE: Tetrominoes(size=size),
    "sprites": lambda size=SIZE: Sprites(resolution=16, size=size),
    "texture": lambda size=SIZE: Texture(resolution=16, size=size),
    "moving sprites": lambda size=SIZE: MovingSprites(frames=2, resolution=16, size=size),
    "camouflage": lambda size=SIZE: Camouflage(frames=2, size=size),
}
OTHERS: dict[str, Callable[[], Dataset]] = {
    "rendered samples": lambda: ClevrLike(resolution=16, count=SIZE),
    "on a device": lambda: OnDevice(ClevrLike(resolution=16, count=SIZE), "cpu"),
    "untouched test scenes": lambda: Untouched(Sprites("test", resolution=16, size=SIZE)),
}
NAMES = [*GENERATED, *OTHERS, *READ_FROM_FILES, "motion fields", "clip folder"]


def written(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A small data set of files made here; skips where a package that reads it is missing."""
    if name == "motion fields":
        pytest.importorskip("cv2", reason="needs OpenCV, the extra `video`")
        davis = write_davis(folder / "davis", ("ant", "bee"), frames=3)
        return MotionFields(davis, "train", num_folds=2, resolution=16)
    if name == "clip folder":
        (folder / "walk").mkdir()
        for frame in range(2 * SIZE):
            Image.new("RGB", (20, 16), (10 * frame, 90, 30)).save(folder / "walk" / f"{frame}.png")
        return ClipFolder(folder, 16, frames=2)
    if name == "coco" and importlib.util.find_spec("pycocotools") is None:
        pytest.skip("needs the extra `coco`")
    return opened(name, WRITERS[name](folder / "data", monkeypatch), "train")


@pytest.fixture(scope="module", params=NAMES)
def dataset(request, tmp_path_factory):
    name = request.param
    if name in GENERATED or name in OTHERS:
        yield (GENERATED | OTHERS)[name]()
        return
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield written(name, tmp_path_factory.mktemp("written"), monkeypatch)


def check_equal(one: Scenes, other: Scenes) -> None:
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]), key


def row_of(scenes: Scenes, row: int) -> Scenes:
    return {key: values[row] for key, values in scenes.items()}


def test_every_data_set_of_the_package_is_tried_here(dataset):
    assert isinstance(dataset, torch.utils.data.Dataset) and isinstance(dataset, Dataset)
    for module in pkgutil.iter_modules(objecthood.data.__path__, "objecthood.data."):
        importlib.import_module(module.name)
    waiting, found = [Dataset], set()
    while waiting:
        kinds = [kind for kind in waiting.pop().__subclasses__() if kind.__module__.startswith("objecthood.")]
        waiting += kinds
        found |= {kind.__name__ for kind in kinds}
    # test_feature_cache.py, test_feature_recipes.py, test_remembered.py
    elsewhere = {"CachedFeatures", "WithClasses", "Remembered"}
    assert found - elsewhere == {
        *(
            "ClipFolder",
            "DecodedDataset",
            "EndlessDataset",
            "Tetrominoes",
            "Sprites",
            "Texture",
            "MovingSprites",
            "Camouflage",
            "ClevrLike",
            "OnDevice",
        ),
        *("Untouched", "Folder", "Shards", "Packed", "Clevr", "ClevrTex", "Coco", "MotionFields"),
    }
    assert type(dataset).__name__ in found


def test_an_int_gives_one_scene_and_a_sequence_a_batch(dataset):
    batch, last = dataset.batch(np.arange(3)), len(dataset) - 1
    for index in (1, np.int64(1), np.uint8(1), torch.tensor(1)):
        check_equal(dataset[index], row_of(batch, 1))
    scene = dataset[2]
    assert scene["image"].dtype == torch.float32 and scene["image"].shape[-3] == 3
    assert scene["image"].min() >= 0 and scene["image"].max() <= 1
    if "masks" in scene:
        size = (*scene["image"].shape[:-3], *scene["image"].shape[-2:])
        assert scene["masks"].dtype == torch.int64 and scene["masks"].shape == size
    for indices in (range(3), slice(3), [0, 1, 2], (0, 1, 2), np.arange(3), torch.arange(3)):
        check_equal(dataset[indices], batch)
    check_equal(dataset[-1], dataset[last])
    check_equal(dataset[[-1, -len(dataset)]], dataset[[last, 0]])
    check_equal(dataset[torch.tensor([1])], dataset[[1]])
    for nothing in ([], slice(0)):
        assert {key: values.shape[1:] for key, values in dataset[nothing].items()} == {
            key: values.shape for key, values in scene.items()
        }
        assert len(dataset[nothing]["image"]) == 0


def test_an_index_out_of_range_is_named_and_iteration_ends(dataset):
    size = len(dataset)
    message = rf"^index {size} is out of range: \w+ has {size} scenes; take 0 to {size - 1}$"
    for beyond in (size, [0, size], np.array([size])):
        with pytest.raises(IndexError, match=message):
            dataset[beyond]
    with pytest.raises(IndexError, match=f"index {-size - 1} is out of range"):
        dataset[-size - 1]
    assert sum(1 for _ in dataset) == size


@pytest.mark.parametrize("wrong", ["1", 1.5, [[0, 1]], [True, False], None])
def test_what_is_no_index_is_refused(wrong, unchecked):
    with pytest.raises(TypeError, match="must be an int, a slice or a sequence of ints"):
        Sprites(resolution=16)[wrong]


def test_the_loader_of_torch_gives_the_batches_of_the_data_set(dataset):
    size = len(dataset)
    in_order = list(DataLoader(dataset, batch_size=3))
    for number, batch in enumerate(in_order):
        check_equal(batch, dataset[3 * number : 3 * number + 3])
    assert sum(len(batch["image"]) for batch in in_order) == size
    shuffled = DataLoader(dataset, batch_size=2, shuffle=True, generator=torch.Generator().manual_seed(2))
    images = torch.cat([batch["image"] for batch in shuffled])
    order = [(images == image).flatten(1).all(dim=1).nonzero()[0, 0].item() for image in dataset[:]["image"]]
    assert sorted(order) == list(range(size)) != order, "every scene once, in another order"


def test_subsets_give_scenes_too(dataset):
    first, rest = random_split(dataset, [2, len(dataset) - 2])
    (batch,) = DataLoader(first, batch_size=2)
    check_equal(batch, dataset[first.indices])
    check_equal(rest[0], dataset[rest.indices[0]])


def test_scenes_are_made_together(monkeypatch):
    """`DataLoader` asks once for a batch, not once for every scene."""
    asked, scenes = [], Sprites(resolution=16)
    answer = scenes.batch
    monkeypatch.setattr(scenes, "batch", lambda indices: (asked.append(list(indices)), answer(indices))[1])
    next(iter(DataLoader(scenes, batch_size=4)))
    assert asked == [[0, 1, 2, 3]]


WORKERS = """
import pickle, sys, torch
from torch.utils.data import DataLoader
with open(sys.argv[1], "rb") as file:
    some = torch.utils.data.Subset(pickle.load(file), range(int(sys.argv[2])))
some[0]  # opens what is read from files before the workers inherit it
inheriting = dict(num_workers=2, timeout=60, multiprocessing_context="fork")
loaders = DataLoader(some, batch_size=2, **inheriting), DataLoader(some, batch_size=2)
for one, other in zip(*loaders, strict=True):
    print(one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one))
"""


def test_worker_processes_give_the_same_batches(dataset, tmp_path):
    """In a fresh process: forked from this one, with the threads of other tests, workers may wait forever."""
    size = min(len(dataset), 6)
    (tmp_path / "dataset").write_bytes(pickle.dumps(dataset))
    said = afresh.run(WORKERS, tmp_path, {}, (str(tmp_path / "dataset"), str(size)))
    assert said.split() == ["True"] * math.ceil(size / 2)


def test_a_copy_in_another_process_gives_the_same_scenes(dataset):
    """Where processes are not forked (macOS, Windows, Python 3.14), workers get the data set pickled."""
    check_equal(pickle.loads(pickle.dumps(dataset))[:3], dataset[:3])


def test_a_pack_is_sent_to_workers_without_its_arrays(tmp_path, monkeypatch):
    packed = written("multi-object", tmp_path, monkeypatch)
    (images,) = tmp_path.rglob("images.npy")
    assert len(pickle.dumps(packed)) < 5000 < images.stat().st_size


@pytest.mark.parametrize("name", GENERATED)
def test_generated_sets_have_a_size_and_no_end(name):
    small, large = GENERATED[name](size=3), GENERATED[name](size=DEFAULT_SIZE)
    assert small.endless and len(small) == 3 and len(large) == DEFAULT_SIZE == len(Tetrominoes())
    check_equal(small[:], large[:3])
    far = np.array([3, 2**39])
    check_equal(small.batch(far), large.batch(far))
    with pytest.raises(ValueError, match=r"^`size` \(=0\) must be at least 1 scene$"):
        GENERATED[name](size=0)


def test_a_data_set_without_end_is_kept_beyond_its_size():
    kept = OnDevice(Sprites(resolution=16, size=3), "cpu", count=5)
    assert len(kept) == 5 and torch.equal(kept[4]["masks"], Sprites(resolution=16)[4]["masks"])


def test_untouched_test_scenes_begin_later():
    scenes = Sprites("test", resolution=16)
    check_equal(Untouched(scenes)[[0, 7]], scenes[[1000, 1007]])
    assert Untouched(scenes).endless and len(Untouched(scenes)) == len(scenes)


def test_a_data_set_of_ones_own_needs_two_methods():
    class Squares(Dataset):
        def __len__(self):
            return 3

        def batch(self, indices):
            return {"image": torch.as_tensor(indices).view(-1, 1, 1, 1).expand(-1, 3, 8, 8) / 2}

    assert not Squares().endless
    assert [scene["image"].mean().item() for scene in Squares()] == [0, 0.5, 1]
    (batch,) = DataLoader(Squares(), batch_size=3)
    assert batch["image"].shape == (3, 3, 8, 8)

    class Half(Dataset):
        def __len__(self):
            return 3

    with pytest.raises(TypeError, match="abstract.*batch"):
        Half()
