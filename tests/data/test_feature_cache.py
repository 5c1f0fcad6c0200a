"""Features on disk: computed once, by content, whole after a kill, and a data set like any other."""

import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image
from processes import start, together
from torch.utils.data import DataLoader

from objecthood.data.feature_cache import DIGEST_BYTES, CachedFeatures, FeatureCache, digests_of
from objecthood.data.folder import Folder
from objecthood.data.generated.moving_sprites import MovingSprites
from objecthood.data.generated.sprites import Sprites
from objecthood.runtime.distributed import joined

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
    for workers, method in ((0, None), (2, "forkserver")):
        (batch,) = DataLoader(
            scenes, batch_size=len(scenes), num_workers=workers, multiprocessing_context=method
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
    """On a file system without locks; the second row is free for another image."""
    cache = FeatureCache(tmp_path, "means", SHAPE)
    twice, other, new = (bytes([number]) * DIGEST_BYTES for number in (1, 2, 3))

    def as_digests(*digests):
        return np.array(digests, f"V{DIGEST_BYTES}")

    with cache.filling():
        cache.reserve(as_digests(twice, other, new))
        cache.write(as_digests(twice, other, new), np.zeros((3, *SHAPE), np.float16))
    (cache.folder / "index.bin").write_bytes(twice + twice + other)
    again = FeatureCache(tmp_path, "means", SHAPE)
    with again.filling():
        assert again.reserve(as_digests(other, new)) == [1]
        again.write(as_digests(new), np.ones((1, *SHAPE), np.float16))
    places = again.places(as_digests(other, new))
    assert places.tolist() == [2, 1] and again.read(places).mean((1, 2, 3)).tolist() == [0, 1]


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


def never(scenes):
    raise AssertionError("nothing is to be computed")


forked = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def share(tmp_path, cache, killed=None):
    """What a process of a group does: features of batches of four that differ with what else is in the batch.
    Process `killed` ends at its second batch. Digests of what is computed are appended to a file."""

    def work():
        calls = []
        with joined(torch.device("cpu")) as processes:

            def compute(scenes):
                calls.append(digests_of(scenes["image"]))
                if processes.rank == killed and len(calls) == 2:
                    time.sleep(0.3)  # the others have this batch's digests
                    os.kill(os.getpid(), signal.SIGKILL)
                with (tmp_path / f"{cache}-computed").open("ab") as file:
                    file.write(b"".join(calls[-1]))
                means = torch.nn.functional.avg_pool2d(scenes["image"], 8).movedim(1, -1)
                return means + scenes["image"].mean()

            scenes = CachedFeatures(
                Folder(tmp_path / "photos", 32),
                compute,
                FeatureCache(tmp_path / cache, "means", SHAPE),
                batch_size=4,
                rank=processes.rank,
                gather=processes.gather,
            )
            return [len(calls), scenes[range(len(scenes))]["features"].sum().item()]

    return work


def content(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*/*.bin") if file.name != "lock.bin"}


@forked
def test_any_number_of_processes_writes_the_same_bytes(tmp_path):
    """Also when one is killed, and others continue; nothing is computed twice."""
    folder = photographs(tmp_path / "photos", 64)
    for number in (0, 7, 40):
        (folder / f"{number}-again.png").write_bytes((folder / f"0-{number:03}.png").read_bytes())
    one = share(tmp_path, "one")()
    for count in (2, 4):
        told = together(count, tmp_path, share(tmp_path, f"{count}"))
        batches = [calls for calls, _ in told]
        assert sum(batches) == one[0] and max(batches) - min(batches) <= 1
        assert {total for _, total in told} == {one[1]}
    for count, killed in ((4, 1), (1, 0), (2, None)):
        group = start(count, tmp_path, share(tmp_path, "killed", killed))
        for process in group:
            process.join(60)
        assert [process.exitcode for process in group] == [
            -signal.SIGKILL if rank == killed else 0 for rank in range(count)
        ]
    for cache in ("2", "4", "killed"):
        assert content(tmp_path / cache) == content(tmp_path / "one"), cache
        computed = np.fromfile(tmp_path / f"{cache}-computed", f"V{DIGEST_BYTES}").tolist()
        assert len(computed) == len(set(computed)) == len(content(tmp_path / "one")["index.bin"]) // 32


@forked
def test_processes_that_see_other_data_or_folders_are_refused(tmp_path):
    photographs(tmp_path / "photos")

    def work(folders, sizes):
        with joined(torch.device("cpu")) as processes:
            cache = FeatureCache(tmp_path / folders[processes.rank], "means", SHAPE)
            scenes = Sprites(resolution=32, size=sizes[processes.rank])
            scenes.endless = False
            CachedFeatures(scenes, never, cache, rank=processes.rank, gather=processes.gather)

    for told in together(2, tmp_path, lambda: work(["a", "b"], [5, 5])):
        assert told.startswith("ValueError: processes do not see the same") and "OBJECTHOOD_CACHE" in told
    for told in together(2, tmp_path, lambda: work(["a", "a"], [5, 6])):
        assert told == "ValueError: processes see [5, 6] scenes; give all machines the same data"


def test_one_fills_a_folder_and_the_next_waits(tmp_path):
    entered = threading.Event()

    def second():
        with FeatureCache(tmp_path, "means", SHAPE).filling():
            entered.set()

    waiting = threading.Thread(target=second)
    with FeatureCache(tmp_path, "means", SHAPE).filling():
        waiting.start()
        assert not entered.wait(0.5)
    waiting.join(10)
    assert entered.is_set()


@pytest.mark.parametrize("clips", [False, True])
def test_features_of_features_need_no_other_digests(tmp_path, compute, clips, monkeypatch):
    """And follow the image, whatever its number: here the second is the first's sum over channels."""
    scenes = MovingSprites(resolution=32, frames=2) if clips else Sprites(resolution=32)
    scenes.size, scenes.endless = 6, False
    first = CachedFeatures(scenes, compute, FeatureCache(tmp_path, "means", SHAPE))
    monkeypatch.setattr("objecthood.data.feature_cache.digests_of", None)
    sums = FeatureCache(tmp_path, "sums", (4, 4, 1))

    def total(scenes):
        return torch.nn.functional.avg_pool2d(scenes["image"], 8).movedim(1, -1).sum(dim=-1, keepdim=True)

    second = CachedFeatures(first, total, sums, name="segments", batch_size=4)
    batch = second[[4, 1]]
    assert batch["segments"].shape == (*batch["image"].shape[:-3], 4, 4, 1)
    expected = batch["features"].sum(dim=-1, keepdim=True)
    torch.testing.assert_close(batch["segments"], expected, atol=4e-3, rtol=0)
    CachedFeatures(first, never, sums, name="segments")
