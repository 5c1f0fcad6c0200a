"""The example for clusters: it goes on where it was, says who meets where, and runs without a cluster."""

import importlib.util
import json
import os
import signal
import time
from pathlib import Path

import pytest
from places import ROOT

specification = importlib.util.spec_from_file_location("slurm", ROOT / "runs" / "experiments" / "slurm.py")
slurm = importlib.util.module_from_spec(specification)
specification.loader.exec_module(slurm)  # without submitit, which it imports where it is used

TINY = ["tetrominoes", "--steps", "4", "--batch-size", "4", "--validation-scenes", "4", "--test-scenes", "4"]


def test_command_of_a_node(tmp_path):
    run = tmp_path / "run"
    training = slurm.Training(str(run), TINY, processes=8)
    words = training.command(2, "node7", "12.1")
    assert words[1:5] == ["-m", "torch.distributed.run", "--nproc-per-node", "8"]
    assert words[5:13] == [
        *("--nnodes", "2", "--rdzv-backend", "c10d"),
        *("--rdzv-endpoint", "node7:29500", "--rdzv-id", "12.1"),
    ]
    assert words[13:] == ["-m", "objecthood", "train", *TINY, "--out", str(run)]
    run.mkdir()
    (run / "metrics.jsonl").touch()
    words = training.command(1, "node7", "12.1")
    assert words[5:] == ["--standalone", "-m", "objecthood", "train", "--resume", str(run)]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_preempted_job_saves_and_comes_back(tmp_path):
    """On submitit's local cluster, whose jobs can be preempted and requeued as SLURM's are."""
    pytest.importorskip("submitit", reason="needs submitit: pip install 'objecthood[slurm]'")
    run = tmp_path / "run"
    log, result = run / "metrics.jsonl", run / "result.json"
    training = slurm.Training(str(run), [*TINY, "--steps", "100"], processes=2)
    job = slurm.submit(training, "local", nodes=1, hours=0.2, log=tmp_path / "log")
    end = time.monotonic() + 120
    while not (log.exists() and log.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    children = Path(f"/proc/{job.job_id}/task/{job.job_id}/children")  # of submitit's stand-in for SLURM
    os.kill(int(children.read_text()), signal.SIGUSR2)
    job.result()
    assert json.loads(result.read_text())["processes"] == 2
    # Checkpoints are written every 500 steps and at the end: the other one is that of the stop.
    saved = sorted(path.name for path in (run / "checkpoints").iterdir())
    assert len(saved) == 2 and "step_00000025" <= saved[0] < saved[1] == "step_00000100"
    assert "100/100" in job.paths.stdout.read_text()
