"""`objecthood doctor`: versions, hardware and limits, and problems with the installation."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from objecthood.runtime.cores import idle_cores
from objecthood.runtime.files import try_writing

NEEDED = {
    "torch": (2, 10),
    "numpy": (1, 26),
    "scipy": (1, 11),
    "threadpoolctl": (3, 1),
    "pillow": (12, 1),
    "safetensors": (0, 5),
    "rich": (13, 7),
    "tyro": (1, 0),
    "jaxtyping": (0, 3, 7),
    "google-crc32c": (1, 5),
    "shtab": (1, 7),
    "typing_extensions": (4, 13),
}
"""Required packages and their minimum versions, as in pyproject.toml."""
OPTIONAL = {
    "pycocotools": "reads COCO's annotations",
    "mitsuba": "renders CLEVR-like scenes",
    "av": "reads videos and cameras",
    "pillow-heif": "reads HEIC photographs",
    "huggingface-hub": "fetches and publishes weights",
}


def examine() -> tuple[dict[str, str], list[str]]:
    """Facts by name, and problems with their remedies; torch is not imported if a package is missing."""
    facts, problems = dict(_packages()), []
    for name, least in NEEDED.items():
        found = _version(name)
        if found is None or _numbers(found) < least:
            wanted = ".".join(map(str, least))
            problems.append(f"{name} is {found or 'missing'}: pip install '{name}>={wanted}'")
    if not problems:
        facts = _machine() | facts | _limits()
    try:
        places = [Path.cwd(), Path(tempfile.gettempdir())]
    except OSError as error:  # no folder for temporary files
        return facts, [*problems, f"{error.strerror}: set TMPDIR to a folder that can be written to"]
    for place in places:
        problem = _write_test(place)
        facts[f"write to {place}"] = problem or f"yes, {shutil.disk_usage(place).free / 2**30:.1f} GiB free"
        if problem:
            problems.append(f"{place} cannot be written to ({problem}): work in another folder")
    return facts, problems


def _packages() -> Iterator[tuple[str, str]]:
    for name in NEEDED:
        yield name, _version(name) or "missing"
    for name, purpose in OPTIONAL.items():
        yield f"{name} (optional)", _version(name) or f"missing; {purpose}: pip install {name}"


def _machine() -> dict[str, str]:
    """Hardware, and the device and precision that `environment` chooses."""
    import torch

    from objecthood.runtime import environment

    device = environment.choose_device("auto")
    precision = str(environment.choose_precision("auto", device)).removeprefix("torch.")
    kept = environment.keep_freed_memory()
    native = environment.computes_in_bfloat16(device)
    sleep = os.environ.get("OMP_WAIT_POLICY", "").upper() == "PASSIVE"
    return environment.describe(device) | {
        "threads of predict": os.environ.get("OMP_NUM_THREADS", f"{idle_cores()} (the idle cores)"),
        "waiting threads": "sleep"
        if sleep
        else "spin, which is slow on a busy machine; unset OMP_WAIT_POLICY",
        "device": environment.describe(device).get("device", str(device)),
        "precision": precision,
        "bfloat16": "native" if native else "emulated and slow; training uses float32",
        "vector instructions": torch.backends.cpu.get_cpu_capability(),
        "freed memory": "kept for reuse (glibc)"
        if kept
        else "returned to the system; training may be slower",
    }


def _limits() -> dict[str, str]:
    from objecthood.data.io import cache, images
    from objecthood.runtime import limits

    return limits.TABLE | {
        "image formats": " ".join((*images.FORMATS, *(["HEIC"] if images.reads_heic() else []))),
        "image cache": f"{cache.CACHE_BYTES:,} bytes per data set",
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" gives (2, 13, 0)."""
    parts = version.split("+")[0].split(".")[:3]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def _write_test(folder: Path) -> str:
    """Why `folder` is not writable, or ""."""
    try:
        try_writing(folder)
    except OSError as error:
        return error.strerror or str(error)
    return ""
