"""Features on disk: computed once, by content, whole after a kill, and a data set like any other."""

import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from objecthood.data.feature_cache import DIGEST_BYTES, CachedFeatures, FeatureCache, digests_of
from objecthood.data.folder import Folder
from objecthood.data.generated.sprites import Sprites

SHAPE = (4, 4, 3)


def photographs(folder, count=20, seed=0):
    """A folder of images of different sizes."""
    folder.mkdir(exist_ok=True)
    numbers = np.random.default_rng(seed)
    for number in range(count):
        size = numbers.integers(30, 60, 2)
        Image.fromarray(numbers.integers(0, 256, (*size, 3), dtype=np.uint8)).save(
            folder / f"{seed}-{number:03}.png"
        )
    return folder


@pytest.fixture
def asked():
    return []


@pytest.fixture
def compute(asked):
    def means(scenes):
        images = scenes["image"]
        asked.extend(digests_of(images))
        return torch.nn.functional.avg_pool2d(images, 8).movedim(1, -1)

    return means


def open_all(tmp_path, compute, key="means", **options):
    scenes = Folder(tmp_path / "photos", 32)
    return CachedFeatures(scenes, compute, FeatureCache(tmp_path / "cache", key, SHAPE), **options)


def test_scenes_have_features_and_loaders_take_them(tmp_path, compute):
    photographs(tmp_path / "photos")
    scenes = open_all(tmp_path, compute)
    scene = scenes[3]
    assert scene["image"].shape == (3, 32, 32) and scene["features"].shape == SHAPE
    expected = torch.nn.functional.avg_pool2d(scene["image"], 8).movedim(0, -1)
    torch.testing.assert_close(scene["features"], expected, atol=1e-3, rtol=0)
    for workers, start in ((0, None), (2, "forkserver")):
        (batch,) = DataLoader(
            scenes, batch_size=len(scenes), num_workers=workers, multiprocessing_context=start
        )
        assert torch.equal(batch["features"], scenes[range(len(scenes))]["features"])
    assert torch.equal(pickle.loads(pickle.dumps(scenes))[3]["features"], scene["features"])


def test_features_are_computed_once_for_each_content_and_key(tmp_path, compute, asked):
    folder = photographs(tmp_path / "photos")
    (folder / "again.png").write_bytes((folder / "0-000.png").read_bytes())
    told = []
    first = open_all(tmp_path, compute, tell=lambda done, of: told.append((done, of)))
    assert len(asked) == len(set(asked)) == len({*digests_of(first[range(len(first))]["image"])})
    assert told[-1] == (len(first), len(first))
    count = len(asked)
    photographs(folder, 30, seed=1)
    later = open_all(tmp_path, compute)
    new = len([path for path in later.scenes.paths if path.name.startswith("1-")])
    assert 20 < new == len(asked) - count, "new images alone"
    open_all(tmp_path, compute, key="other weights")
    assert len(asked) == 2 * (count + new)


@pytest.mark.parametrize("lost", ["features", "index", "both"])
def test_what_a_kill_left_half_written_is_computed_anew(tmp_path, compute, asked, lost):
    photographs(tmp_path / "photos")

    def killed(scenes):
        if len(asked) >= 8:
            raise SystemExit
        return compute(scenes)

    with pytest.raises(SystemExit):
        open_all(tmp_path, killed, batch_size=4)
    (folder,) = (tmp_path / "cache").iterdir()
    features, index = folder / "features.bin", folder / "index.bin"
    if lost in ("features", "both"):  # a digest without its features, and half a row
        features.write_bytes(features.read_bytes()[:-50])
    if lost in ("index", "both"):
        index.write_bytes(index.read_bytes()[: -DIGEST_BYTES // 2])
    asked.clear()
    scenes = open_all(tmp_path, compute, batch_size=4)
    assert len(scenes) - 8 < len(asked) == len(scenes) - 7
    batch = scenes[range(len(scenes))]
    expected = torch.nn.functional.avg_pool2d(batch["image"], 8).movedim(1, -1)
    torch.testing.assert_close(batch["features"], expected, atol=1e-3, rtol=0)


def test_no_more_is_kept_than_there_is_room_for(tmp_path, compute, asked):
    scenes = Folder(photographs(tmp_path / "photos"), 32)
    cache = FeatureCache(tmp_path / "cache", "means", SHAPE, max_bytes=10 * 2 * 4 * 4 * 3)
    with pytest.raises(ValueError, match=r"features of .. images take .* OBJECTHOOD_CACHE") as caught:
        CachedFeatures(scenes, compute, cache)
    assert "\n" not in str(caught.value) and not asked


def test_endless_data_is_refused(tmp_path, compute):
    with pytest.raises(ValueError, match="endless data set cannot be kept"):
        CachedFeatures(Sprites(), compute, FeatureCache(tmp_path, "means", SHAPE))


def test_an_image_that_two_processes_wrote_shifts_no_other(tmp_path):
    """On a file system without locks; rows are counted, not images."""
    cache = FeatureCache(tmp_path, "means", SHAPE)
    twice, other, new = (bytes([number]) * DIGEST_BYTES for number in range(3))
    with cache.filling():
        cache.append([twice, other, new], np.zeros((3, *SHAPE), np.float16))
    (cache.folder / "index.bin").write_bytes(twice + twice + other)
    again = FeatureCache(tmp_path, "means", SHAPE)
    with again.filling():
        again.append([new], np.ones((1, *SHAPE), np.float16))
    assert again.places([other, new]).tolist() == [2, 3]
    assert again.read(again.places([other, new])).mean((1, 2, 3)).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["lock", "index", "features"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_files_of_others_in_the_folder_are_left_alone(tmp_path, name, kind):
    cache, mine = FeatureCache(tmp_path, "means", SHAPE), tmp_path / "mine"
    mine.write_text("mine")
    place = cache.folder / f"{name}.bin"
    place.symlink_to(mine) if kind == "link" else os.mkfifo(place)
    with pytest.raises(ValueError, match=f"{name}.bin is (a symbolic link|not a file)"), cache.filling():
        pass
    assert mine.read_text() == "mine"
