"""Peak memory of training steps: each model in a process of its own, so that none inherits another's.

On a CPU: the largest resident size minus the size once everything is imported and before the model is built,
from /proc (Linux only; getrusage would hand down the parent's peak). On a GPU: the largest that PyTorch's
allocator held.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from objecthood.benchmarks.contestants import settings, training_step

_STEPS = 3


def peak_memory(resolution: int, name: str, batch_size: int, device: torch.device) -> int:
    """Bytes that `name` needs for training steps at `resolution`, from a fresh process."""
    command = [sys.executable, "-m", __name__, str(resolution), name, str(batch_size), str(device)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure(resolution: int, name: str, batch_size: int, device: torch.device) -> int:
    """The same, in this process, which should have done nothing else."""
    before = resident("VmRSS")
    step = training_step(settings()[resolution], name, batch_size, device)
    for _ in range(_STEPS):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most so far; 0 where there is no /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(measure(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), torch.device(sys.argv[4])))
