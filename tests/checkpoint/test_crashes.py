"""Killed at any moment, at any call to the system: a run goes on, and ends as if nothing had been."""

import itertools
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from dying import begin, begin_on_terminal, die_at_call, ended, fork_is_fine, kill, needs_fork, shown, traced
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import objecthood as oh
from objecthood.checkpoint.run import NotSaved, restore, save_checkpoint
from objecthood.cli.main import main
from objecthood.recipes import Discovery
from objecthood.runtime.signals import INTERRUPTED, PREEMPTED, Preempted

pytestmark = [fork_is_fine, needs_fork]
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


@dataclass(frozen=True)
class Undrawn(Discovery):
    """No images: they take longer than all else."""

    def figures(self, model, scenes):
        return {}

    def preview(self, model, scenes):
        return Image.new("RGB", (1, 1))


RECIPE = Undrawn(
    name="crash", data="sprites", resolution=16, num_slots=3, steps=12, batch_size=2, evaluate_every=5,
    validation_scenes=2, test_scenes=2, warmup_steps=2, precision="float32", ema_decay=0.9,
)  # fmt: skip
LAST = "checkpoints/step_00000012"
TIMES = ("seconds", "cpu_seconds", "images_per_second")


def outcome(run: Path) -> dict[str, str]:
    """What must not depend on how often a run died: weights, averages, optimiser, and all logged numbers."""
    files = (f"{LAST}/model.safetensors", f"{LAST}/optimizers.safetensors", "weights.safetensors")
    found = {name: sha256((run / name).read_bytes()).hexdigest() for name in files}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = [{name: value for name, value in line.items() if name not in TIMES} for line in lines]
    return found | {"metrics": json.dumps(kept)}


@pytest.fixture(scope="module", autouse=True)
def every_step_logged():
    module = import_module("objecthood.train")  # `oh.train` is the function
    before, module.LOG_EVERY = module.LOG_EVERY, 1
    yield
    module.LOG_EVERY = before


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, every_step_logged):
    run = tmp_path_factory.mktemp("runs") / "run"
    oh.train(RECIPE, run, checkpoint_every=2)
    assert len(json.loads(outcome(run)["metrics"])) == 15
    return outcome(run)


def life(run: Path, recipe: Undrawn = RECIPE) -> int:
    """One start of a run, as its user would make it."""

    def work():
        try:
            oh.train(recipe, run, resume=(run / "recipe.json").exists(), checkpoint_every=2)
        except Preempted:
            os._exit(PREEMPTED)

    return begin(work)


def saved(run: Path) -> int:
    """The newest step that was saved."""
    names = [path.name for path in run.glob("checkpoints/step_*")]
    return max((int(name[5:13]) for name in names), default=0)


def wait_for(happened, process: int, seconds: float = 30) -> None:
    """Until something has happened, or the process has ended."""
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.0005)


def die_somewhere(run: Path, moment: str, chance: random.Random, seconds: float) -> bool:
    """Start a run and kill it: "whenever", "later" (after it has saved), or "saving". False where it was done
    before."""
    before, process = saved(run), life(run)
    if moment == "whenever":
        time.sleep(chance.uniform(0, seconds))
    elif moment == "later":
        wait_for(lambda: saved(run) > before, process)
        time.sleep(chance.uniform(0, seconds / 4))
    else:
        for _ in range(chance.randrange(1, 4)):
            wait_for(lambda: any(run.glob("checkpoints/.tmp-*")), process)
        time.sleep(chance.uniform(0, 0.004))
    return kill(process) != 0


def check_kills(folder: Path, undisturbed: dict[str, str], kills: int) -> tuple[int, int, int]:
    """Kill runs so often in all, each to its end; how many runs, how many ended alike, and how many kills
    came after the first step."""
    chance, done, late, runs, alike = random.Random(0), 0, 0, 0, 0
    begun = time.monotonic()
    assert ended(life(folder / "first")) == 0
    seconds = time.monotonic() - begun
    while done < kills:
        run, runs = folder / f"run-{runs}", runs + 1
        while done < kills:
            moment = ("later", "whenever", "later", "saving")[done % 4]
            if not die_somewhere(run, moment, chance, seconds):
                break
            done, late = done + 1, late + (saved(run) >= 1)
        assert ended(life(run)) == 0
        alike += outcome(run) == undisturbed
        assert not list(run.glob("checkpoints/.tmp-*")), "what a crash left is cleared away"
    return runs, alike, late


AREA = "A run that dies"


@pytest.mark.parametrize("kills", [8, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_killed_at_random_moments(kills, tmp_path, undisturbed, scoreboard):
    runs, alike, late = check_kills(tmp_path, undisturbed, kills)
    assert late >= kills / 2 and alike == runs
    what = "kill -9 at a random moment: final weights, averages, optimiser and log bit for bit"
    scoreboard(AREA, what, kills, measured=f"{late} of {kills} after the first save, in {runs} runs")


def small_training(steps: int):
    """A model and an optimiser, the same for the same number of steps."""
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    optimizers = [torch.optim.Adam(model.parameters())]
    for _ in range(steps):
        model(torch.randn(3, 6)).square().sum().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
    return model, optimizers


def save(folder: Path, step: int) -> None:
    save_checkpoint(folder, step, *small_training(step), {"skipped_steps": 0})


def step_restored(folder: Path) -> int:
    """The step that a new life goes on from; what it holds must be that step's, to the bit."""
    model, optimizers = small_training(0)
    facts = restore(folder, model, optimizers, say=lambda line: None)
    assert facts is not None, "neither the old nor the new"
    right, its = small_training(facts["step"])
    assert all(torch.equal(value, right.state_dict()[name]) for name, value in model.state_dict().items())
    for mine, other in zip(optimizers[0].state.values(), its[0].state.values(), strict=True):
        assert all(torch.equal(mine[name], other[name]) for name in other)
    return facts["step"]


# What is saved over what: a new step beside others, one that is there already, and the same alone.
SAVES = {"new": ((1, 2), 3), "again": ((1, 2), 2), "alone": ((2,), 2)}


def prepared(folder: Path, before: tuple[int, ...]) -> Path:
    for step in before:
        save(folder, step)
    return folder


@pytest.mark.parametrize(
    "name", ["alone", *(pytest.param(name, marks=pytest.mark.long) for name in ("new", "again"))]
)
def test_killed_before_every_call_of_a_save(name, tmp_path, scoreboard):
    before, step = SAVES[name]
    base, calls = prepared(tmp_path / "base", before), 0
    while True:
        folder = shutil.copytree(base, tmp_path / f"at-{calls}")

        def work(folder=folder, number=calls):
            die_at_call(number)
            save(folder, step)

        if ended(begin(work)) == 0:
            break
        assert step_restored(folder) in (step, before[-1]), calls
        save(folder, step)
        assert step_restored(folder) == step and len(list(folder.iterdir())) <= 2
        calls += 1
        shutil.rmtree(folder)
    assert calls > 25
    scoreboard(AREA, "kill -9 before every call of a save that changes the disk: old or new one whole", calls)


# Calls to the system that touch the disk; others (memory, threads) are left out.
ON_DISK = "openat mkdir write pwrite64 fsync fdatasync rename renameat unlink unlinkat rmdir ftruncate close"
ON_DISK += " read pread64 getdents64 newfstatat lseek mmap"
needs_strace = pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")


def calls_of_a_save(tmp_path: Path, before: tuple[int, ...], step: int) -> list[tuple[str, int]]:
    """Every call to the system of one save: its name, and the how-manieth of that name it is."""
    folder, log = prepared(tmp_path / "counted", before), tmp_path / "log"
    assert traced(lambda: save(folder, step), log, "-e", f"trace={','.join(ON_DISK.split())}") == 0
    names = Counter(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE))
    calls = [(name, number) for name, count in names.items() for number in range(1, count + 1)]
    return [call for call in calls if call != ("read", 1)]  # with which the fork waits to be begun


@needs_strace
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SAVES)
def test_killed_at_every_system_call_of_a_save(name, tmp_path, scoreboard):
    before, step = SAVES[name]
    base, died = prepared(tmp_path / "base", before), 0
    calls = calls_of_a_save(tmp_path, before, step)
    for call, number in calls:
        folder = shutil.copytree(base, tmp_path / "run")
        inject = f"inject={call}:signal=KILL:when={number}"
        died += traced(lambda folder=folder: save(folder, step), tmp_path / "log", "-e", inject) == -9
        assert step_restored(folder) in (step, before[-1]), (call, number)
        shutil.rmtree(folder)
    assert (
        died >= len(calls) - 5 and len(calls) > 60
    )  # a count may differ by a few reads of what Python caches
    scoreboard(AREA, "kill -9 at every system call of a save: old or new one whole", died)


def save_or_say(folder: Path, step: int) -> None:
    """A save that ends well, or with one line."""
    try:
        save(folder, step)
    except NotSaved as error:
        assert "\n" not in str(error) and str(folder) in str(error)
        os._exit(3)


@needs_strace
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("error", ["EIO", "ENOSPC", "EINTR"])
def test_failed_system_calls_of_a_save(error, tmp_path, scoreboard):
    before, step = SAVES["new"]
    base, said = prepared(tmp_path / "base", before), Counter()
    calls = [
        (call, number)
        for call, number in calls_of_a_save(tmp_path, before, step)
        if call not in ("mmap", "lseek", "newfstatat", "close")
    ]
    for call, number in calls:
        folder = shutil.copytree(base, tmp_path / "run")
        inject = f"inject={call}:error={error}:when={number}"
        said[traced(lambda folder=folder: save_or_say(folder, step), tmp_path / "log", "-e", inject)] += 1
        assert step_restored(folder) in (step, before[-1]), (call, number)
        shutil.rmtree(folder)
    assert set(said) <= {0, 3}, said
    scoreboard(AREA, f"{error} from every system call of a save: saved, or one line and the old one whole",
               len(calls), measured=f"{said[3]} told in one line")  # fmt: skip


def test_resumed_at_every_step(tmp_path, undisturbed, monkeypatch, scoreboard):
    """Told to stop in every step: each life takes one."""
    run, plain, lives = tmp_path / "run", Undrawn.loss, 0

    def loss(self, model, scenes, step):
        os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, model, scenes, step)

    monkeypatch.setattr(Undrawn, "loss", loss)
    while ended(life(run)) == PREEMPTED:
        lives += 1
        assert saved(run) == lives
    assert lives == RECIPE.steps and outcome(run) == undisturbed
    scoreboard(AREA, "told to stop in every step, and resumed: not a bit different at the end", lives)


@dataclass(frozen=True)
class Large(Undrawn):
    """Ten million weights more."""

    def build_model(self):
        model = super().build_model()
        model.more = nn.Linear(3200, 3200)
        return model


@pytest.mark.long
@pytest.mark.timed
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_told_to_stop_with_ten_million_weights(number, tmp_path, scoreboard):
    fields = {name: value for name, value in RECIPE.to_dict().items() if name != "task"}
    recipe, slowest, chance = (
        Large(**fields | {"steps": 100_000, "evaluate_every": 10**6}),
        0.0,
        random.Random(0),
    )
    for count in range(10):
        run = tmp_path / f"run-{count}"
        process = life(run, recipe)
        wait_for(lambda run=run: steps_of(run), process)
        time.sleep(chance.uniform(0, 0.1))
        told = time.monotonic()
        os.kill(process, number)
        assert ended(process) == PREEMPTED
        slowest = max(slowest, time.monotonic() - told)
        assert saved(run) >= 1
        shutil.rmtree(run)
    assert slowest <= 5
    scoreboard("Signals", "a signal amid a step, 10 million weights: saved and gone", 10,
               measured=f"at most {slowest:.1f} s")  # fmt: skip


def steps_of(run: Path) -> list[str]:
    """Lines that a run has logged."""
    log = run / "metrics.jsonl"
    return [line for line in log.read_text().splitlines() if '"train"' in line] if log.exists() else []


ON_TERMINAL = ["train", "tetrominoes", "--steps", "100000", "--evaluate-every", "100000", "--batch-size", "2"]


def terminal_of_a_run(run: Path) -> tuple[int, int, object, str]:
    """A run that is under way on a terminal: its process, our end, the settings of that before it, and what
    it has shown."""
    import termios

    process, terminal = begin_on_terminal(lambda: main([*ON_TERMINAL, "--out", str(run)]))
    settings, said = termios.tcgetattr(terminal), []

    def under_way() -> bool:
        if select.select([terminal], [], [], 0)[0]:  # a terminal that nobody reads stops who writes to it
            said.append(os.read(terminal, 1 << 16))
        return len(steps_of(run)) > 2

    wait_for(under_way, process)
    assert steps_of(run)
    return process, terminal, settings, b"".join(said).decode(errors="replace")


def test_ctrl_c_on_a_terminal(tmp_path, scoreboard):
    """Saved, told how to go on, and the terminal as it was: echo on, cursor shown."""
    import termios

    process, terminal, before, first = terminal_of_a_run(tmp_path / "run")
    os.write(terminal, b"\x03")
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(shown, terminal)
        assert ended(process) == INTERRUPTED
        after = termios.tcgetattr(terminal)
        said = first + said.result(30)
    os.close(terminal)
    assert after == before and saved(tmp_path / "run") > 2
    assert said.rfind("\x1b[?25h") > said.rfind("\x1b[?25l") >= 0, "the cursor is back"
    assert f"objecthood train --resume {tmp_path / 'run'}" in said and "Traceback" not in said
    scoreboard("Signals", "Ctrl-C on a terminal: saved, exit code 130, the terminal as it was", 1)


def test_a_terminal_that_is_closed(tmp_path, scoreboard):
    """As by an ssh that breaks: SIGHUP comes, and nothing can be said any more."""
    process, terminal, *_ = terminal_of_a_run(tmp_path / "run")
    os.close(terminal)
    assert ended(process) == PREEMPTED
    assert saved(tmp_path / "run") > 2
    scoreboard("Signals", "a terminal that is closed (SIGHUP): saved, exit code 75", 1)


SMALL = """
import dataclasses
from PIL import Image
from objecthood.recipes import Discovery

@dataclasses.dataclass(frozen=True)
class Small(Discovery):
    def figures(self, model, scenes):
        return {"blank": Image.new("RGB", (8, 8))}

    def picture(self, model, scenes):
        return Image.new("RGB", (8, 8))

recipe = Small(
    name="small", data="sprites", resolution=16, num_slots=3, steps=6, batch_size=2, evaluate_every=3,
    validation_scenes=2, test_scenes=2, warmup_steps=2, precision="float32",
)
"""
WHOLE_LIFE = {
    "train": ["train", "small.py", "--out", "out"],
    "sweep": ["sweep", "small.py", "--seed", "0..1", "--out", "out"],
    "predict": [
        *("predict", "images", "--weights", "tetrominoes", "--out", "out", "--animation"),
        *("--also", "arrays,cutouts"),
    ],
}
ENDS = {signal.SIGTERM: PREEMPTED, signal.SIGUSR1: PREEMPTED, signal.SIGINT: INTERRUPTED, signal.SIGKILL: -9}


def command_of(name: str, folder: Path) -> list[str]:
    """A command as it is typed; a run that has begun goes on."""
    begun = name == "train" and (folder / "out" / "recipe.json").exists()
    return ["train", "small.py", "--resume", "out"] if begun else WHOLE_LIFE[name]


OWN_CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
from objecthood.cli.main import entry
sys.exit(entry())
"""


def began(name: str, folder: Path) -> subprocess.Popen[str]:
    """A process of its own, in `folder`, once it has taken charge of SIGTERM."""
    environment = os.environ | {"PYTHONPATH": str(Path(oh.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", OWN_CTRL_C, *command_of(name, folder)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    status, bit = Path(f"/proc/{process.pid}/status"), 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        caught = re.search(r"SigCgt:\s*(\w+)", status.read_text())
        if caught and int(caught[1], 16) & bit:
            break
        time.sleep(0.005)
    return process


def ran_in_a_fork(name: str, folder: Path) -> bool:
    """Whether the command, as `began` types it but in a warm process, ended well."""

    def work():
        os.chdir(folder)
        assert main(command_of(name, folder)) == 0

    return ended(begin(work), 300) == 0


def ran(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and all that was said."""
    said = process.communicate(timeout=300)[0]
    return process.returncode, said


def whole(folder: Path) -> dict[str, str]:
    """SHA-256 of files that do not tell the time, by name; each of a final name must be readable."""
    found = {}
    for file in (file for file in folder.rglob("*") if file.is_file() and "/." not in str(file)):
        if file.suffix in (".png", ".gif"):
            with Image.open(file) as image:
                image.load()
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".safetensors":
            load_file(file)
        elif file.suffix == ".npz":
            with np.load(file) as arrays:
                assert "masks" in arrays
        if re.search(r"weights.safetensors$|-(masks|overlay|attention|arrays|cutouts)\b", str(file)):
            found[str(file.relative_to(folder))] = sha256(file.read_bytes()).hexdigest()
    return found


@needs_proc
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "kills"),
    [("train", 1), ("predict", 1), *(pytest.param(name, 24, marks=pytest.mark.long) for name in WHOLE_LIFE)],
)
def test_stopped_at_any_moment_of_a_command(name, kills, tmp_path, scoreboard):
    """Starting up, working, finishing: a line and its exit code, files whole, and the same end."""
    chance, ends = random.Random(kills), Counter()
    plain, folder = tmp_path / "plain", tmp_path / "stopped"
    for place in (plain, folder):
        (place / "images").mkdir(parents=True)
        (place / "small.py").write_text(SMALL)
        for number in range(2):
            Image.new("RGB", (40, 30 + number), "navy").save(place / "images" / f"{number}.png")
    process, start = began(name, plain), time.monotonic()
    code, said = ran(process)
    seconds, right = time.monotonic() - start, whole(plain / "out")
    assert code == 0 and right, said
    for number in itertools.islice(itertools.cycle(ENDS), kills):
        process = began(name, folder)
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(number)
        code, said = ran(process)
        assert code in (0, ENDS[number]) and "Traceback" not in said, (number, code, said)
        assert code in (0, -signal.SIGKILL) or said.count("stopped") == 1, said
        ends[code] += 1
        found = whole(folder / "out")
        if code == 0:
            assert found == right
            shutil.rmtree(folder / "out")
    assert ran_in_a_fork(name, folder) and whole(folder / "out") == right
    assert not list((folder / "out").rglob(".*.part*"))
    what = f"`{name}` stopped at a random moment, first to last: a line and its exit code, every file whole"
    codes = ", ".join(f"{count} ended with {code}" for code, count in sorted(ends.items()))
    scoreboard("Signals", what, kills, measured=codes)


TINY = ["train", "tetrominoes", "--steps", "6", "--validation-scenes", "2", "--test-scenes", "2"]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_same_seed_in_fresh_processes(tmp_path, scoreboard):
    """Another folder to work in, another hash seed: not a bit different. Other threads: rounding."""
    kinds = {"one": ("1", "0", "a"), "other": ("1", "4321", "b"), "threads": ("2", "7", "a")}
    for name, (threads, hashes, place) in kinds.items():
        (tmp_path / place).mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(Path(oh.__file__).parents[1])}
        environment |= {"OMP_NUM_THREADS": threads, "PYTHONHASHSEED": hashes}
        command = [sys.executable, "-m", "objecthood", *TINY, "--out", tmp_path / name]
        subprocess.run(
            [*command, "--precision", "float32"], cwd=tmp_path / place, env=environment, check=True
        )
    one, other, threads = (load_file(tmp_path / name / "weights.safetensors") for name in kinds)
    assert all(torch.equal(one[name], other[name]) for name in one)
    apart = max((one[name] - threads[name]).abs().max().item() for name in one)
    scoreboard("The same again", "same seed in fresh processes: other folder, other hash seed", 2,
               measured=f"another number of threads: {apart:.0e} apart")  # fmt: skip
