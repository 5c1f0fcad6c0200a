"""Train a recipe on a SLURM cluster, through submitit; a job that is preempted saves, and goes on by itself.

    python runs/experiments/slurm.py clevr6-paper --data-path CLEVR --out runs/clevr6 \
        --nodes 2 --gpus 8 --hours 12

needs `pip install 'objecthood[slurm]'`. All that is not an option below is handed to `objecthood train`. The
run folder must lie where all nodes see it. On one node the same command works without a cluster:
`--cluster local`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PORT = 29_500
"""Where the nodes of a job meet, on its first one; torchrun's own default."""


class Training:
    """What a job does on each of its nodes: one torchrun, which starts a process a GPU.

    Args:
        out: run folder; gone on with where it is there.
        arguments: of `objecthood train`, without --out and --resume.
        processes: on each node.
    """

    def __init__(self, out: str, arguments: list[str], processes: int):
        self.out, self.arguments, self.processes = out, arguments, processes
        self.torchrun: subprocess.Popen | None = None

    def __call__(self) -> None:
        import submitit

        job = submitit.JobEnvironment()
        words = self.command(job.num_nodes, job.hostnames[0], job.job_id)
        # In a session of its own: the signals that SLURM sends to a job are submitit's, not torchrun's.
        self.torchrun = subprocess.Popen(words, start_new_session=True)
        if self.torchrun.wait():
            raise RuntimeError(f"training ended with exit code {self.torchrun.returncode}; see the log above")

    def command(self, num_nodes: int, first_node: str, job: str) -> list[str]:
        """The command line of a node; alone it needs no meeting place."""
        meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{first_node}:{PORT}", "--rdzv-id", job]
        where = ["--nnodes", str(num_nodes), *meet] if num_nodes > 1 else ["--standalone"]
        begun = (Path(self.out) / "metrics.jsonl").exists()
        words = ["--resume", self.out] if begun else [*self.arguments, "--out", self.out]
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(self.processes)]
        return [*start, *where, "-m", "objecthood", "train", *words]

    def checkpoint(self) -> Any:
        """Called by submitit on the first node before a job is taken away: save, and come back later."""
        import submitit

        if self.torchrun is not None:
            self.torchrun.terminate()  # which it hands on to all processes: they finish a step and save
            # Not `wait`: this interrupts the one in `__call__`, which holds a lock.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.torchrun.pid, 0)
        return submitit.helpers.DelayedSubmission(Training(self.out, self.arguments, self.processes))


def submit(training: Training, cluster: str, nodes: int, hours: float, log: Path) -> Any:
    """Hand a training to SLURM ("slurm") or to a process of this machine ("local"); the submitit job."""
    import submitit

    executor = submitit.AutoExecutor(folder=log, cluster=cluster)
    executor.update_parameters(name="objecthood", nodes=nodes, tasks_per_node=1, timeout_min=int(hours * 60))
    if cluster == "slurm":
        executor.update_parameters(gpus_per_node=training.processes, slurm_signal_delay_s=120)
    return executor.submit(training)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="run folder, seen by all nodes")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=1, help="of each node: so many processes (default: 1)")
    parser.add_argument("--hours", type=float, default=24.0, help="until SLURM takes the job away")
    parser.add_argument("--cluster", choices=["slurm", "local"], default="slurm")
    own, arguments = parser.parse_known_args()
    training = Training(own.out, arguments, own.gpus)
    job = submit(training, own.cluster, own.nodes, own.hours, Path(own.out + "-slurm"))
    print(f"job {job.job_id}; its log: {job.paths.stderr}")


if __name__ == "__main__":
    main()
