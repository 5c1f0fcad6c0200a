"""Peak memory of training steps, measured in a separate process per model.

On a CPU: the peak resident size minus the size before the model is built, from /proc (Linux only; getrusage
would include the parent's peak). On a GPU: the peak of PyTorch's allocator.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from objecthood.benchmarks.contestants import settings, training_step

_STEPS = 3


def peak_memory(resolution: int, name: str, batch_size: int, device: torch.device) -> int:
    """Peak bytes of training steps of model `name` at `resolution`, measured in a new process."""
    command = [sys.executable, "-m", __name__, str(resolution), name, str(batch_size), str(device)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure(resolution: int, name: str, batch_size: int, device: torch.device) -> int:
    """`peak_memory` in this process, which must be new."""
    before = resident("VmRSS")
    step = training_step(settings()[resolution], name, batch_size, device)
    for _ in range(_STEPS):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """Resident bytes of this process: current (VmRSS) or peak (VmHWM); 0 without /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(measure(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), torch.device(sys.argv[4])))
