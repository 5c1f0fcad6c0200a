"""What strangers could send instead of weights and data: files that would run programs, climb out of their
folder, or fill the memory. Each leaves a mark where it succeeds: `mark` is a file that must never appear."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np


class Call:
    """Unpickled, it calls a function."""

    def __init__(self, function: object, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def pickles(mark: Path) -> Iterator[tuple[str, bytes]]:
    """By the ways in which a pickle calls (REDUCE, GLOBAL, INST, OBJ, BUILD), of every protocol."""
    command, source = f"touch {mark}", f"open({str(mark)!r}, 'w')"
    for protocol in range(6):
        yield f"system-{protocol}", pickle.dumps(Call(os.system, command), protocol)
    yield "eval", pickle.dumps(Call(eval, source))
    yield "exec", pickle.dumps(Call(exec, source))
    yield "open", pickle.dumps(Call(open, str(mark), "w"))
    yield "subprocess", pickle.dumps(Call(subprocess.check_output, ["touch", str(mark)]))
    yield "import", pickle.dumps(Call(__import__, "antigravity"))
    yield "numpy", pickle.dumps(Call(np.save, str(mark), np.zeros(1)))
    yield "global", b"cos\nsystem\n(V" + command.encode() + b"\ntR."
    yield "inst", b"(V" + command.encode() + b"\nios\nsystem\n."
    yield "obj", b"(cos\nsystem\nV" + command.encode() + b"\no."
    yield "nested", pickle.dumps({"state_dict": {"weight": Call(os.system, command)}, "epoch": 3})
    yield "optimised", pickletools.optimize(pickle.dumps([Call(os.system, command)] * 3))
    yield "build", b"c__main__\nobject\n)R}V__setstate__\ncos\nsystem\nsbV" + command.encode() + b"\nb."
    yield "deep", b"(" * 100_000 + b"."


def torch_zip(content: bytes, name: str = "archive") -> bytes:
    """As torch.save writes: a zip of data.pkl and its storages."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(f"{name}/data.pkl", content)
        archive.writestr(f"{name}/version", "3\n")
        archive.writestr(f"{name}/data/0", bytes(64))
    return stream.getvalue()


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """A .npy file of any header, true or not."""
    form = "<H" if version[0] == 1 else "<I"
    return b"\x93NUMPY" + bytes(version) + struct.pack(form, len(text)) + text.encode() + bytes(64)


def zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of whatever names; the same name twice where it is there twice."""
    import warnings

    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries of one name
        for name, content in entries:
            archive.writestr(name, content)
    return stream.getvalue()


def tar(*members: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return stream.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size = kind, target, mode, 4 if kind == tarfile.REGTYPE else 0
    return info


HONEST = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }"


def archives(mark: Path) -> Iterator[tuple[str, bytes]]:
    """Zip and tar files that climb, link, lie, repeat, or unpack to far more than they are."""
    good, climbing = npy(np.zeros(4, np.float32)), f"../../../../../..{mark}"
    yield "climbs", zipped([(climbing, good), ("w.a.0.npy", good)])
    yield "absolute", zipped([(str(mark), good)])
    yield "backslash", zipped([("..\\..\\..\\mark.npy", good)])
    yield "twice", zipped([("w.a.0.npy", good), ("w.a.0.npy", good)])
    yield "many", zipped([(f"{number}.npy", b"") for number in range(11_000)], zipfile.ZIP_STORED)
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(link, "/etc")
        archive.writestr("link/passwd", b"x")
    yield "symlink", stream.getvalue()
    yield "bomb", zipped([("w.a.0.npy", npy_header(HONEST) + bytes(400_000_000))])
    stored = zipped([("w.a.0.npy", good)])
    place = stored.index(b"PK\x01\x02") + 24  # the unpacked size, in the list of contents
    yield "huge by its list", stored[:place] + struct.pack("<I", 2**32 - 2) + stored[place + 4 :]
    yield "cut", stored[: len(stored) // 2]
    yield "wrong sum", stored.replace(bytes(4), b"\0\0\0\1", 1)
    yield "bomb in a bomb", zipped([("a.zip", zipped([("b", bytes(60_000_000))]))])
    encrypted = bytearray(stored)
    for mark_of, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark_of) + offset] |= 1
    yield "encrypted", bytes(encrypted)
    method = bytearray(stored)
    for mark_of, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        method[method.index(mark_of) + offset] = 99
    yield "unknown method", bytes(method)
    for name, text in {
        "too long": HONEST.replace("(4,)", "(10**9,)"),
        "huge": HONEST.replace("(4,)", "(9223372036854775807, 9223372036854775807)"),
        "negative": HONEST.replace("(4,)", "(-4, -1)"),
        "no tuple": HONEST.replace("(4,)", "4"),
        "call": HONEST.replace("'<f4'", f"__import__('os').system('touch {mark}')"),
        "object": HONEST.replace("<f4", "|O"),
        "object within": HONEST.replace("'<f4'", "[('a', '|O'), ('b', '<f4')]"),
        "no dtype": HONEST.replace("<f4", "nonsense"),
        "deep": "(" * 5000,
        "long": HONEST + " " * 60_000,
    }.items():
        yield f"array {name}", zipped([("w.a.0.npy", npy_header(text))])
    yield "array version 9", zipped([("w.a.0.npy", npy_header(HONEST, (9, 0)))])
    yield "array no magic", zipped([("w.a.0.npy", b"nothing of the kind")])
    yield "tar climbs", tar(member(climbing))
    yield "tar absolute", tar(member(str(mark)))
    yield "tar symlink", tar(member("a", tarfile.SYMTYPE, "/etc"), member("a/passwd"))
    yield "tar hard link", tar(member("a", tarfile.LNKTYPE, "/etc/passwd"))
    yield "tar device", tar(member("zero", tarfile.CHRTYPE))
    yield "tar setuid", tar(member("sh", mode=0o4755))


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def crafted(metadata: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Weight files whose headers lie; `metadata` is that of an honest one."""
    eight = bytes(8)

    def of(tensors: dict[str, object], data: bytes = eight, **changes: str) -> bytes:
        return safetensors({"__metadata__": metadata | changes} | tensors, data)

    yield "header of 100 MB", safetensors(b" " * 100_000_000)
    yield "header of 2 MB of brackets", safetensors(b"[" * 2_000_000)
    yield "deep header", safetensors(b'{"a":' * 100_000)
    for length in (0, 1, 7, 2**31, 2**63, 2**64 - 1):
        yield f"length {length}", safetensors({}, eight, length)
    yield "no object", safetensors([1, 2])
    yield "not text", safetensors(b"\xff\xfe{}")
    yield "overlap", of({"a": entry(), "b": entry()})
    yield "hole", of({"a": entry(offsets=(8, 16))}, bytes(16))
    yield "backwards", of({"a": entry(offsets=(8, 0))})
    yield "negative offsets", of({"a": entry(offsets=(-8, 8))}, bytes(8))
    yield "negative shape", of({"a": entry(shape=(-2,))})
    yield "huge shape", of({"a": entry(shape=(2**40, 2**40))})
    yield "shape of text", of({"a": entry(shape="ab")})
    yield "shape of floats", of({"a": entry(shape=(2.0,))})
    yield "no shape", of({"a": {"dtype": "F32", "data_offsets": (0, 8)}})
    yield "unknown dtype", of({"a": entry("PICKLE")})
    yield "dtype of another size", of({"a": entry("F64")})
    yield "tensor of text", of({"a": "text"})
    yield "offsets of text", of({"a": entry(offsets="ab")})
    yield "offsets beyond the end", of({"a": entry(offsets=(0, 2**60), shape=(2**58,))})
    yield "key twice", safetensors(json.dumps({"__metadata__": metadata, "a": entry()}).encode()[:-1] +
                                   b', "a": ' + json.dumps(entry()).encode() + b"}", eight)  # fmt: skip
    yield "metadata of numbers", safetensors({"__metadata__": {"format": 3}, "a": entry()}, eight)
    yield "metadata a list", safetensors({"__metadata__": ["format"], "a": entry()}, eight)
    yield "nothing behind", of({"a": entry()}, b"")
    yield "something behind", of({"a": entry()}, bytes(80))
    settings = json.loads(metadata["recipe"])
    for name, recipe in {
        "no object": 5, "a list": [["task", "Discovery"]], "deep": None,
        "of another task": {"task": "os.system"}, "task a list": settings | {"task": ["Discovery"]},
        "without task": {"name": "x"},
        "of a billion slots": settings | {"num_slots": 10**9},
        "of a billion pixels": settings | {"resolution": 10**9},
        "of many pixels": settings | {"resolution": 30_000},
        "of words": settings | {"num_slots": "seven"}, "of nothing": dict.fromkeys(settings),
        "with more fields": settings | {"__class__": "os"},
        "of huge numbers": settings | {"steps": 10**400, "learning_rate": 1e308},
    }.items():  # fmt: skip
        text = "[" * 100_000 if name == "deep" else json.dumps(recipe)
        yield f"recipe {name}", of({"a": entry()}, recipe=text)
    for name in ("recipe", "scores", "calibration"):
        yield f"{name} no JSON", of({"a": entry()}, **{name: "{'a': __import__('os').system('id')}"})


def texts(mark: Path) -> Iterator[tuple[str, bytes]]:
    """YAML and others that some tools read as settings."""
    yield "yaml object", f"!!python/object/apply:os.system ['touch {mark}']".encode()
    yield "yaml new", f"!!python/object/new:os.system ['touch {mark}']".encode()
    laughs = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))
    yield "billion laughs", f"a0: &a0 [lol]\n{laughs}".encode()
    yield "xml", b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    yield "deep json", b"[" * 100_000
    yield "long json", b"[" + b"0," * 100_000 + b"0]"
    yield "wide number", b'{"steps": ' + b"9" * 10_000 + b"}"
    yield "python", f"open({str(mark)!r}, 'w')".encode()
    yield "shell", f"#!/bin/sh\ntouch {mark}\n".encode()
    yield "template", b"${jndi:ldap://127.0.0.1/x} {{7*7}} $(id) `id`"
    yield "compressed zeros", zlib.compress(bytes(50_000_000), 9)
