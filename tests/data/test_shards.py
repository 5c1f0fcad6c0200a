"""Images in tar files: found, divided, read in any order, and never mistaken."""

import gzip
import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from objecthood.data.folder import Folder
from objecthood.data.io.images import ImageError
from objecthood.data.shards import Shards, find_shards

SIDE = 8


def png(number):
    stream = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (number % 256, number // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as shard:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return path


def numbers(scenes):
    """What `png` was called with, of each image."""
    pixels = (scenes[:]["image"][:, :, 0, 0] * 255).round().int()
    return (pixels[:, 0] + 256 * pixels[:, 1]).tolist()


def test_every_image_of_every_shard_is_in_one_split(tmp_path):
    for shard in range(3):
        write(
            tmp_path / f"s-{shard}.tar",
            [(f"{n:04}.png", png(n)) for n in range(100 * shard, 100 * shard + 100)],
        )
    splits = {split: Shards(tmp_path, SIDE, split) for split in ("train", "validation", "test")}
    found = {split: numbers(scenes) for split, scenes in splits.items()}
    assert sorted(found["train"] + found["validation"] + found["test"]) == list(range(300))
    assert not splits["train"].overlaps and len(found["train"]) > 250
    unpacked = tmp_path / "unpacked"
    for shard in splits["train"].paths:
        with tarfile.open(shard) as members:
            members.extractall(unpacked, filter="data")
    assert numbers(Folder(unpacked, SIDE, "test")) == found["test"], "as of a folder of the same names"


def test_only_images_count(tmp_path):
    write(
        tmp_path / "s.tar",
        [
            ("a/0.png", png(0)),
            ("a/0.json", b"{}"),
            ("a/0.seg.png", png(1)),
            ("a/._0.png", b"what macOS adds"),
            ("a/1.PNG", png(2)),
            (f"{'long/' * 60}3.png", png(3)),
        ],
    )
    with tarfile.open(tmp_path / "s.tar", "a") as shard:
        shard.addfile(tarfile.TarInfo("folder.png/"))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
    scenes = Shards(tmp_path / "s.tar", SIDE)
    assert numbers(scenes) == [0, 2, 3] and scenes.overlaps


def test_shards_are_named_by_file_folder_pattern_and_range(tmp_path):
    (tmp_path / "deep").mkdir()
    made = [write(tmp_path / "deep" / f"p-{n:03}.tar", [(f"{n}.png", png(n))]) for n in range(9, 12)]
    (tmp_path / "deep" / "._p-009.tar").write_bytes(b"what macOS adds")
    assert find_shards(made[0]) == made[:1]
    assert find_shards(tmp_path) == find_shards(tmp_path / "deep" / "p-*.tar") == made
    assert find_shards(tmp_path / "deep" / "p-{009..010}.tar") == made[:2]
    for wrong, said in (
        ("deep/p-{009..012}.tar", "p-012.tar': no such file"),
        ("deep/p-{3..1}.tar", "the range ends before it begins"),
        ("p-{0..99999999999}.tar", "p-0.tar': no such file"),
        (f"p-{{0..{'9' * 5000}}}.tar", "no tar file there"),
        ("*.tar", "no tar file there; check the spelling"),
        ("https://example.org/p.tar", "addresses are not opened"),
    ):
        with pytest.raises(ImageError, match=said):
            find_shards(wrong if "//" in wrong else tmp_path / wrong)


def test_damage_is_told_with_shard_and_member(tmp_path):
    good = write(
        tmp_path / "good.tar", [("c0.png", png(0)), ("c-broken.png", b"no image"), ("c1.png", png(1))]
    )
    scenes = Shards(good, SIDE)
    assert scenes[2]["image"].shape == (3, SIDE, SIDE)
    with pytest.raises(ImageError, match=r"good.tar', member 'c-broken.png': .*not a readable image") as told:
        scenes[1]
    assert "\n" not in str(told.value)
    for name, content, said in (
        ("packed.tar", gzip.compress(good.read_bytes()), "unpack .tar.gz with gunzip"),
        ("text.tar", b"not a tar file" * 100, "is not an uncompressed tar file"),
        ("cut.tar", write(tmp_path / "x.tar", [("0.png", b"1" * 5000)]).read_bytes()[:3000], "ends within"),
        ("none.tar", write(tmp_path / "x.tar", [("0.json", b"{}")]).read_bytes(), "no image in 1 tar files"),
        ("empty.tar", b"", "tar file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=said):
            Shards(tmp_path / name, SIDE)


def test_a_shard_that_changes_or_goes_is_noticed(tmp_path):
    shard = write(tmp_path / "s.tar", [(f"c{n}.png", png(n)) for n in range(3)])
    scenes = Shards(shard, SIDE)
    assert numbers(scenes) == [0, 1, 2]
    anew = Shards(shard, SIDE)
    write(shard, [(f"c{n}.png", png(n + 5)) for n in range(3)])
    os.utime(shard, ns=(0, 0))
    with pytest.raises(ImageError, match="has changed since it was opened; start again"):
        anew[0]
    shard.unlink()
    with pytest.raises(ImageError, match=r"cannot be read \(No such file"):
        anew[0]
    assert numbers(scenes) == [0, 1, 2], "what was decoded is kept"


def test_shards_of_the_library_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for number, one in enumerate(pixels):
            writer.write({"__key__": f"{number:04}", "png": one, "json": {"number": number}})
    found = Shards(tmp_path / "w.tar", SIDE)[:]["image"]
    assert (found.permute(0, 2, 3, 1).mul(255).round().byte().numpy() == pixels).all()


def header(kind, size):
    """A tar header of a member `a.png` that claims `size` bytes."""
    entry = tarfile.TarInfo("a.png")
    entry.type, entry.size = kind, size
    return entry.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "content",
    [header(kind, 2**40) for kind in (b"L", b"x")]
    + [header(kind, 0) * 3000 for kind in (b"K", b"g")]
    + [header(b"0", -1024) * 3],
    ids=["name of 1 TB", "attributes of 1 TB", "names of names", "attributes without end", "size below 0"],
)
def test_headers_that_ask_for_more_than_there_is(tmp_path, content):
    (tmp_path / "s.tar").write_bytes(content + bytes(1024))
    with pytest.raises(ImageError, match="is not an uncompressed tar file, or is damaged"):
        Shards(tmp_path / "s.tar", SIDE)
