"""Several processes: the weights of one, whatever their number, and an end in order when one of them dies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from places import ROOT
from processes import free_port, start, together
from safetensors.torch import load_file

import objecthood as oh
from objecthood.cli.main import main
from objecthood.nn import GaussianSlots
from objecthood.recipes import Discovery, FastSetPrediction, FastTetrominoes, Recipe
from objecthood.runtime import distributed
from objecthood.runtime.signals import stop_signals

SAMPLES = ROOT / "objecthood" / "data" / "samples" / "clevr_like"
SMALL = {"steps": 6, "batch_size": 4, "evaluate_every": 100, "validation_scenes": 4, "test_scenes": 4}
SMALL |= {"warmup_steps": 2, "precision": "float32"}
SET = {name: value for name, value in oh.RECIPES["set-clevr-like"].to_dict().items() if name != "task"}


class SampleSet(FastSetPrediction):
    """On the scenes that lie in the package, of which there is one split."""

    def dataset(self, split):
        return super().dataset("test")


# Noise for every slot; Muon, clipping and averaged weights; a prior with a buffer; and a matched set.
RECIPES = {
    "paper": Discovery(name="paper", data="sprites", resolution=16, num_slots=3, **SMALL),
    "fast": replace(oh.RECIPES["tetrominoes"], **SMALL),
    "guided": replace(
        oh.RECIPES["sprites"],
        **SMALL | {"resolution": 16, "restarts": 2},
        merge_penalty_start=-100,
        low_resolution_steps=2,
    ),
    "set": SampleSet(**SET | SMALL | {"resolution": 16, "data_path": str(SAMPLES)}),
}
# A fork of a warm process starts in no time; Python 3.12 warns of it wherever there are threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.usefixtures("undrawn"),
]


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def difference(one: Path, other: Path) -> float:
    """The largest between the weights of two runs."""
    weights, others = load_file(one / "weights.safetensors"), load_file(other / "weights.safetensors")
    assert weights.keys() == others.keys()
    return max((weights[name] - others[name]).abs().max().item() for name in weights)


@pytest.fixture
def calm(monkeypatch):
    """Adam and Muon that do not enlarge rounding.

    Both divide a gradient by its size. What should be zero and is 1e-9 then moves weights as far as anything
    else, in a direction that rounding chooses: hence a larger epsilon, and a smaller step for Muon, which has
    none.
    """
    build = Recipe.build_optimizers

    def build_optimizers(self, model):
        adam, *muons = build(self, model)
        for group in adam.param_groups:
            group["eps"] = 3e-2
        for group in (group for muon in muons for group in muon.param_groups):
            group["base_lr"] = 1e-4
        return [adam, *muons]

    monkeypatch.setattr(Recipe, "build_optimizers", build_optimizers)


@pytest.mark.parametrize("name", RECIPES)
def test_two_processes_give_the_weights_of_one(name, calm, tmp_path, scoreboard):
    recipe = RECIPES[name]
    one = oh.train(recipe, tmp_path / "one")
    first, second = together(2, tmp_path, lambda: oh.train(recipe, tmp_path / "two"))
    assert first == second and first["processes"] == 2 and one["processes"] == 1
    assert difference(tmp_path / "one", tmp_path / "two") <= 1e-6
    line, other = log_of(tmp_path / "one")[0], log_of(tmp_path / "two")[0]
    for value in ("loss", "gradient_norm"):
        assert other[value] == pytest.approx(line[value], rel=1e-5)
    scoreboard("Several processes", "two processes give the weights of one (1e-6)", 1)


def test_all_processes_hold_the_same_weights(tmp_path):
    """The first one's are saved: equal to the last bit, for nothing brings them together again."""
    plain = FastTetrominoes.loss
    weights = {}

    def loss(self, model, scenes, step):
        weights[step] = torch.cat([value.detach().flatten().double() for value in model.parameters()])
        return plain(self, model, scenes, step)

    def work():
        FastTetrominoes.loss = loss  # of this fork alone
        oh.train(RECIPES["fast"], tmp_path / "run")
        return [weights[step].sum().item().hex() for step in sorted(weights)]

    first, second = together(2, tmp_path, work)
    assert first == second and len(set(first)) == SMALL["steps"]


def test_noise_does_not_depend_on_the_number_of_processes(tmp_path):
    slots = GaussianSlots(num_slots=3, dim=16)

    def work():
        if distributed.started():
            with distributed.joined(torch.device("cpu")):
                torch.manual_seed(5)
                return slots(2).tolist()
        torch.manual_seed(5)
        return slots(4).tolist()

    whole = work()
    shares = together(2, tmp_path, work)
    assert [shares[0][0], shares[1][0], shares[0][1], shares[1][1]] == whole


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2)])
def test_saved_by_some_and_gone_on_with_by_others(before, after, calm, monkeypatch, tmp_path, scoreboard):
    recipe, folder = RECIPES["paper"], tmp_path / "run"
    plain = Discovery.loss

    def stop_at_three(self, model, scenes, step):
        if step == 3 and os.environ.get("RANK", "0") == "0":  # one is told; all stop
            os.kill(os.getpid(), signal.SIGUSR1)
        return plain(self, model, scenes, step)

    def train(resume):
        if not resume:
            Discovery.loss = stop_at_three
        return oh.train(recipe, folder, resume=resume)

    def run(count, resume):
        if count > 1:
            return together(count, tmp_path, lambda: train(resume))
        try:
            return [train(resume)]
        except KeyboardInterrupt as stop:
            return [f"{type(stop).__name__}: {stop}"]

    monkeypatch.setattr(Discovery, "loss", plain)  # and restore it afterwards
    assert run(before, False) == ["Preempted: told"] * before
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000004"]
    monkeypatch.setattr(Discovery, "loss", plain)
    assert [result["processes"] for result in run(after, True)] == [after] * after
    oh.train(recipe, tmp_path / "undisturbed")
    assert difference(folder, tmp_path / "undisturbed") <= 1e-6
    scoreboard("Several processes", "saved by two and resumed by one, and back: the same weights (1e-6)", 1)


def test_a_step_that_one_process_cannot_take_is_taken_by_none(tmp_path, scoreboard):
    """And the third in a row ends all of them, with the image named by its number in the data."""
    plain = Discovery.loss

    def work(bad_steps):
        def loss(self, model, scenes, step):
            if step in bad_steps and os.environ["RANK"] == "1" and len(scenes["image"]) > 1:
                scenes["image"][1] = torch.nan
            return plain(self, model, scenes, step)

        Discovery.loss = loss
        return oh.train(RECIPES["paper"], tmp_path / f"run-{len(bad_steps)}")

    first, second = together(2, tmp_path, lambda: work([1, 2]))
    assert first == second and first["skipped_steps"] == 2
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run-2/weights.safetensors").values())
    first, second = together(2, tmp_path, lambda: work([1, 2, 3]))
    assert first == second and first.startswith("FloatingPointError: ")
    assert "step 3; offending images (indices in the training data): 15;" in first
    assert "encoder" in first and "\n" not in first
    assert first.endswith("run-3/bad-batch-*.safetensors")
    kept = [load_file(tmp_path / f"run-3/bad-batch-{rank}.safetensors") for rank in (0, 1)]
    assert [batch["indices"].tolist() for batch in kept] == [[12, 14], [13, 15]]
    scoreboard("Several processes", "nan in one process's share: skipped by all, culprit named", 2)


TRAIN = ["train", "tetrominoes", "--steps", "4000", "--batch-size", "4", "--evaluate-every", "4000"]
TRAIN += ["--validation-scenes", "4", "--test-scenes", "4", "--precision", "float32"]


def begin(*command: object) -> subprocess.Popen:
    """A command in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    arguments = [sys.executable, "-m", *map(str, command)]
    return subprocess.Popen(arguments, cwd=ROOT, env=environment, text=True, **pipes)


def until(happened, process: subprocess.Popen, seconds: float = 100):
    """What `happened` gives, once it gives something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        found = happened()
        if found:
            return found
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"did not happen; {process.communicate()}")


def children(process: subprocess.Popen) -> list[int]:
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(number) for number in text.split()]


def under_way(run: Path):
    """A function: the lines of a run's log, once there is one."""

    def lines():
        log = run / "metrics.jsonl"
        return log.read_text().splitlines() if log.exists() else []

    return lines


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


@pytest.mark.long
@needs_proc
@pytest.mark.timed
def test_signal_and_killed_process(tmp_path, scoreboard):
    """SIGTERM to the command: saved once, exit code 75. Gone on with, one is killed: one line, code 1."""
    run = tmp_path / "run"
    job = begin("objecthood", *TRAIN, "--out", run, "--processes", 2)
    until(under_way(run), job)
    told = time.time()
    job.send_signal(signal.SIGTERM)
    said, complaints = job.communicate(timeout=60)
    assert job.returncode == 75 and not complaints and said.count("stopped") == 1, (said, complaints)
    (saved,) = (run / "checkpoints").iterdir()
    seconds = (saved / "manifest.json").stat().st_mtime - told
    assert seconds <= 5
    scoreboard("Signals", "SIGTERM to a job of two processes: saved once, exit code 75", 1,
               measured=f"after {seconds:.1f} s")  # fmt: skip
    assert f"objecthood train --resume {run}" in said

    before = len(under_way(run)())
    job = begin("objecthood", "train", "--resume", run, "--processes", 2)
    until(lambda: len(under_way(run)()) > before, job)
    workers = children(job)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    killed = time.monotonic()
    _, complaints = job.communicate(timeout=60)
    seconds = time.monotonic() - killed
    assert seconds <= 15
    assert job.returncode == 1 and len(complaints.splitlines()) == 1
    assert "error: process 1 of 2 was killed (SIGKILL)" in complaints and "--resume" in complaints
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    scoreboard("Several processes", "one process killed: the job ends, and says which, in one line", 1,
               measured=f"after {seconds:.1f} s")  # fmt: skip


@pytest.mark.long
def test_two_machines_through_torchrun(tmp_path):
    """Two agents, one process each, as on two machines; they find each other and give one result."""
    run, short = tmp_path / "run", [*TRAIN[:3], "6", *TRAIN[4:]]
    agents = ["torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d"]
    agents += ["--rdzv-endpoint", f"localhost:{free_port()}", "--local-addr", "localhost"]
    jobs = [begin(*agents, "-m", "objecthood", *short, "--out", run) for _ in range(2)]
    said = [job.communicate(timeout=120) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert sum("report " in out for out, _ in said) == 1, "one of them speaks"
    settings = json.loads((run / "recipe.json").read_text())
    oh.train(oh.recipes.from_dict(settings), tmp_path / "one")
    assert json.loads((run / "result.json").read_text())["processes"] == 2
    assert difference(run, tmp_path / "one") <= 1e-6


@pytest.mark.long
@pytest.mark.timed
def test_a_process_that_hangs(monkeypatch, tmp_path, scoreboard):
    """One is stopped for good; the other waits so long, and no longer."""
    monkeypatch.setattr(distributed, "PATIENCE", timedelta(seconds=5))
    plain = Discovery.loss

    def loss(self, model, scenes, step):
        if step == 3 and os.environ["RANK"] == "1":
            (tmp_path / "hangs").touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        return plain(self, model, scenes, step)

    def work():
        Discovery.loss = loss
        return oh.train(RECIPES["paper"], tmp_path / "run")

    started = start(2, tmp_path, work)
    while not (tmp_path / "hangs").exists():
        time.sleep(0.01)
    begun = time.monotonic()
    started[0].join(60)
    seconds = time.monotonic() - begun
    for process in started:
        process.kill()
    told = json.loads((tmp_path / "told-0.json").read_text())
    assert told.startswith("RuntimeError: ") and "imed out" in told and seconds <= 5 + 10
    scoreboard("Several processes", "one process hangs: the others end when their patience of 5 s does", 1,
               measured=f"after {seconds:.1f} s")  # fmt: skip


@needs_proc
@pytest.mark.long
@pytest.mark.timeout(600)
def test_started_anew_by_torchrun(tmp_path, scoreboard):
    """--max-restarts: after one process is killed all begin again, at the last checkpoint."""
    agent = ["torch.distributed.run", "--max-restarts", 1, "--nproc-per-node", 2, "-m", "objecthood"]
    words = [*TRAIN[:3], "60", *TRAIN[4:7], "20", *TRAIN[8:]]
    runs = [tmp_path / name for name in ("disturbed", "undisturbed")]
    for run in runs:
        job = begin(*agent, *words, "--out", run)
        if run.name == "disturbed":
            until(lambda run=run: list(run.glob("checkpoints/step_*")), job)
            os.kill(children(job)[1], signal.SIGKILL)
        _, complaints = job.communicate(timeout=200)
        assert job.returncode == 0, complaints
    one, other = (load_file(run / "weights.safetensors") for run in runs)
    assert all(torch.equal(one[name], other[name]) for name in other)
    what = "one process killed, torchrun --max-restarts 1: all go on, the same weights bit for bit"
    scoreboard("Several processes", what, 1)


def test_an_error_of_a_process_is_told_in_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(ROOT)
    before = [signal.getsignal(number) for number in stop_signals()]
    assert main([*TRAIN, "--out", str(tmp_path / "run"), "--processes", "2", "--data", "nothing"]) == 1
    assert [signal.getsignal(number) for number in stop_signals()] == before
    complaints = capsys.readouterr().err
    assert len(complaints.splitlines()) == 1 and complaints.startswith("error: ") and "nothing" in complaints


@pytest.mark.parametrize("typed", ["0", "3", "-2"])
def test_processes_that_cannot_share_a_batch_are_refused(typed, capsys, tmp_path):
    assert main([*TRAIN, "--out", str(tmp_path / "run"), f"--processes={typed}"]) == 2
    told = capsys.readouterr().err
    assert f"--processes (={typed}) must be at least 1 and divide a batch of 4" in told
    assert not (tmp_path / "run").exists()


def test_the_cause_is_told_from_what_follows_it():
    class Failure:
        def __init__(self, exitcode, message, timestamp=5):
            self.exitcode, self.message, self.timestamp = exitcode, message, timestamp

        def signal_name(self):
            return signal.Signals(-self.exitcode).name

    lost = Failure(1, {"message": "RuntimeError: Connection closed by peer"}, 4)
    ended = Failure(-15, "Signal 15", 4)
    assert str(distributed.cause({0: ended, 1: Failure(1, {"message": "ValueError: bad"})}, 2)) == "bad"
    assert str(distributed.cause({0: Failure(-9, "", 35), 1: Failure(1, "ValueError: bad")}, 2)) == "bad"
    own = Failure(1, {"message": "ValueError: no image"})
    assert str(distributed.cause({0: lost, 1: own}, 2)) == "no image"
    killed = distributed.cause({0: lost, 1: own, 2: Failure(-9, "Signal 9")}, 3)
    assert re.search(r"process 2 of 3 was killed \(SIGKILL\)", str(killed))
    assert isinstance(distributed.cause({0: Failure(130, "")}, 2), KeyboardInterrupt)
    assert "process 0: RuntimeError" in str(distributed.cause({0: lost}, 2))
