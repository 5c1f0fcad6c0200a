"""The environment of a run: device, precision, versions, commit."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from pathlib import Path

import torch

import objecthood


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or the best available ("auto"); ValueError if it is not available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} is not available; use auto, cpu, cuda or cuda:N") from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """float32 or bfloat16 by name; "auto" takes bfloat16 if `device` supports it natively."""
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name == "auto":
        return torch.bfloat16 if computes_in_bfloat16(device) else torch.float32
    if name not in choices:
        raise ValueError(f"`precision` (={name!r}) must be one of auto, {', '.join(choices)}")
    return choices[name]


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device supports bfloat16 natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))


def keep_freed_memory() -> bool:
    """Configure glibc to keep freed memory for reuse; False with other C libraries.

    By default every large tensor is mapped again and page-faulted: eight 5 MB products take 20 ms instead of
    3. The process then keeps its peak memory.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, top_pad, max_mmaps = -1, -2, -4  # names of glibc's malloc.h
    return all((mallopt(max_mmaps, 0), mallopt(trim_threshold, 2**31 - 1), mallopt(top_pad, 2**28)))


def describe(device: torch.device | None = None) -> dict[str, str]:
    """Versions, processor and commit, as text."""
    facts = {
        "objecthood": objecthood.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if device is not None and device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    return facts


def commit() -> str:
    """Git commit of the package, with "+" if it was modified; "" without git."""
    folder = str(Path(__file__).parent)
    try:
        name = _git(folder, "rev-parse", "--short=12", "HEAD")
        return name + ("+" if _git(folder, "status", "--porcelain", "--", folder) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def _git(folder: str, *arguments: str) -> str:
    command = ["git", "-C", folder, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
