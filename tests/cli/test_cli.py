"""The command: quick help, mistakes named in one line, and the same numbers as the Python functions."""

import csv
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from places import ROOT
from undrawn import leave_out_images

import objecthood as oh
from objecthood.cli import doctor
from objecthood.cli.commands import COMMANDS
from objecthood.cli.main import main
from objecthood.runtime.cores import idle_cores
from objecthood.runtime.signals import Preempted
from objecthood.runtime.signals import command as typed_here
from objecthood.runtime.spelling import nearest
from objecthood.training.nonfinite import Guard

TINY = ["--steps", "4", "--validation-scenes", "4", "--test-scenes", "4"]
OWN_RECIPE = """
from dataclasses import replace
import objecthood as oh

class Mine(oh.recipes.FastTetrominoes):
    def build_model(self):
        return super().build_model()

fields = oh.RECIPES["tetrominoes"].to_dict()
del fields["task"]
recipe = replace(Mine(**fields), name="mine", steps=2, validation_scenes=4, test_scenes=4)
"""


def run(capsys, *arguments) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines of stderr."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err.splitlines()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder that the command wrote."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_images(patch)
        assert main(["train", "tetrominoes", *TINY, "--out", str(out), "--precision", "float32"]) == 0
    return out


def test_help_is_quick():
    """Seconds of a processor, not of a clock: other work on the machine does not count."""
    seconds = []
    for _ in range(3):
        code = (
            "import resource, sys; from objecthood.cli.main import main; main(['--help'])\n"
            "used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "heavy = {'torch', 'numpy', 'tyro', 'rich', 'PIL'} & set(sys.modules)\n"
            "print(used.ru_utime + used.ru_stime, heavy or '', file=sys.stderr)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        seconds.append(float(done.stderr))  # no float where a heavy module was imported
    assert statistics.median(seconds) <= 0.5


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "objecthood", "trian"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stdout == "" and "did you mean train?" in done.stderr


def test_help_names_commands_and_exit_codes(capsys):
    for arguments in (["--help"], ["-h"], ["help"], []):
        code, said, complaints = run(capsys, *arguments)
        assert code == 0 and not complaints
        assert all(f"  {name} " in said for name in COMMANDS)
        assert all(f"\n  {number} " in said for number in (0, 1, 2, 130))
    assert run(capsys, "--version")[1] == f"objecthood {oh.__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(capsys, name):
    code, said, complaints = run(capsys, name, "--help")
    assert code == 0 and not complaints and f"usage: objecthood {name}" in said


@pytest.mark.parametrize("words", ["predict", "evaluate", "train sprites", "demo"])
def test_help_breaks_a_line_only_where_the_next_word_does_not_fit(capsys, words):
    lines = run(capsys, *words.split(), "--help")[1].splitlines()
    width = max(len(line) for line in lines if set(line) == {"-"})
    for line, following in itertools.pairwise(lines):
        indent = len(following) - len(following.lstrip())
        if indent >= 10 and line[indent - 2 : indent] == "  " and line[indent : indent + 1].strip():
            assert len(line) + 1 + len(following.split()[0]) > width, f"{line!r} ends early"


@pytest.mark.parametrize("words", ["predict", "evaluate", "export", "train sprites", "demo", "sweep"])
def test_help_says_nothing_that_only_python_needs(capsys, words):
    words = words.split()
    said = " ".join(run(capsys, *words, "--help")[1].split())
    for noise in ("{None}", "None)", "(default: '')", "(default: )", "[STR", "tuple"):
        assert noise not in said, noise
    if words[0] == "train":
        assert "--data-path PATH" in said
    if words == ["predict"]:
        assert "[IMAGE ...]" in said and "--iterations N" in said and "--out FOLDER" in said
        assert "(default: predictions)" in said, "defaults that are something stay"
    # The options themselves are as before.
    assert run(capsys, "predict", "--slots", "many")[0] == 2


def test_words_that_look_like_options(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("-x.png")
    common = ["--weights", "tetrominoes", "--no-animation", "--out"]
    code, _, complaints = run(capsys, "predict", "-x.png", *common, "a")
    assert code == 2 and "the file of that name is ./-x.png" in complaints[0]
    assert run(capsys, "predict", *common, "b", "--", "-x.png")[0] == 0
    assert run(capsys, "predict", "./-x.png", *common, "c")[0] == 0
    assert Path("b/-x-overlay.png").is_file() and Path("c/-x-overlay.png").is_file()
    assert "no option --sluts" in run(capsys, "predict", "--sluts", "4", "--", "-x.png")[2][0]


def test_images_of_another_kind_are_counted(capsys, tmp_path):
    """One warning, and how many there are; not the same long line again and again."""
    for number in range(15):
        pixels = np.random.default_rng(number).integers(0, 256, (35, 35, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:02d}.png")
    command = ["predict", tmp_path, "--weights", "tetrominoes", "--no-animation", "--out", tmp_path / "out"]
    code, said, complaints = run(capsys, *command)
    warnings = [line for line in complaints if line.startswith("warning: ")]
    assert code == 0 and len(warnings) == 2 and "00.png is " in warnings[0]
    assert re.fullmatch(r"warning: 1[0-5] of 15 images are likely out of distribution", warnings[1])
    assert said.count("to train on your own images") == 1
    code, said, complaints = run(capsys, "predict", tmp_path / "00.png", *command[2:])
    assert len([line for line in complaints if line.startswith("warning: ")]) == 1


def test_dark_images_are_counted(capsys, tmp_path):
    for number in range(4):
        Image.new("I;16", (20, 20), 900 + number).save(tmp_path / f"{number}.png")
    command = ["predict", tmp_path, "--weights", "tetrominoes", "--no-animation", "--out", tmp_path / "out"]
    complaints = run(capsys, *command)[2]
    dark = [line for line in complaints if "almost black" in line]
    assert len(dark) == 2 and "0.png" in dark[0] and dark[1].startswith("warning: 3 more: almost black")


def test_a_stopped_run_is_told_once(capsys, tmp_path, monkeypatch):
    """In one line, with a command that can be typed as it stands; other commands say that they stopped."""
    out = tmp_path / "a run"
    with monkeypatch.context() as patch:
        patch.setattr(Guard, "passes", refusing_to_go_on)
        code = main(["train", "tetrominoes", *map(str, TINY), "--out", str(out)])
    said = capsys.readouterr()
    lines = [line for line in (said.out + said.err).splitlines() if "stopped" in line]
    assert code == 130 and len(lines) == 1 and lines[0].startswith("stopped; resume with: ")
    assert (out / "latest.png").is_file(), "there is something to look at from the beginning"
    typed = shlex.split(lines[0].partition("resume with: ")[2])
    assert typed[-3:] == ["train", "--resume", str(out)] and shutil.which(typed[0])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert shlex.split(typed_here()) == [sys.executable, "-m", "objecthood"]
    monkeypatch.setattr("objecthood.cli.main.run", refusing_to_go_on)
    assert main(["list"]) == 130 and capsys.readouterr().err == "stopped\n"


def refusing_to_go_on(*arguments):
    raise KeyboardInterrupt


def test_help_of_a_recipe_shows_its_fields(capsys):
    assert "--merge-penalty" in run(capsys, "train", "sprites", "--help")[1]
    assert "--merge-penalty" not in run(capsys, "train", "tetrominoes", "--help")[1]


def mutations(name: str, count: int, seed: str) -> list[str]:
    """`count` misspellings: a letter left out, doubled, replaced, or swapped with its neighbour."""
    source = random.Random(seed)
    wrong: list[str] = []
    while len(wrong) < count:
        place = source.randrange(len(name) - 1)
        letter = source.choice("abcdefghijklmnopqrstuvwxyz")
        wrong.append(
            source.choice(
                [
                    name[:place] + name[place + 1 :],
                    name[:place] + name[place] + name[place:],
                    name[:place] + letter + name[place + 1 :],
                    name[:place] + name[place + 1] + name[place] + name[place + 2 :],
                ]
            )
        )
        if wrong[-1] in (name, *wrong[:-1]):
            wrong.pop()
    return wrong


def test_typing_mistakes_are_understood(capsys, scoreboard):
    """Of commands, recipes and options; at least 95 % must be answered with the right name."""
    options = [
        "num-slots",
        "learning-rate",
        "steps",
        "batch-size",
        "seed",
        "device",
        "out",
        "test-iterations",
    ]
    cases = [([wrong], name) for name in COMMANDS for wrong in mutations(name, 4, name)]
    cases += [(["train", wrong], name) for name in oh.RECIPES for wrong in mutations(name, 4, name)]
    for name in options:
        cases += [
            (["train", "sprites", f"--{wrong}", "1"], f"--{name}") for wrong in mutations(name, 4, name)
        ]
    for command, name in (("predict", "weights"), ("predict", "skip-bad"), ("evaluate", "num-scenes")):
        cases += [([command, "x", f"--{wrong}"], f"--{name}") for wrong in mutations(name, 4, name)]
    wrong = []
    for arguments, name in cases:
        code, said, complaints = run(capsys, *arguments)
        assert code == 2 and said == "" and len(complaints) == 1, arguments
        if f"did you mean {name}?" not in complaints[0]:
            wrong.append((arguments, complaints[0]))
    assert len(cases) >= 30 and len(wrong) <= 0.05 * len(cases), wrong
    measured = f"the right name suggested for {len(cases) - len(wrong)}"
    scoreboard(
        "The command",
        "typing mistakes: one line, exit code 2",
        len(cases),
        measured=measured,
    )


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("eval", "evaluate"), ("slots", "num-slots"), ("lr", "learning-rate"), ("Num_Slots", "num-slots")],
)
def test_short_forms_are_understood(typed, meant):
    names = ["train", "evaluate", "num-slots", "learning-rate", "steps", "matrix-learning-rate"]
    assert nearest(typed, names) == meant


WRONGLY_TYPED = [
    ("frobnicate", "allowed are train, sweep, "),
    ("--verbose train", "did you mean --version|allowed are --help"),
    ("train", "train needs a recipe"),
    ("train sprites extra", "unexpected argument"),
    ("train sprites num_slots=3", "write options as --name VALUE"),
    ("train sprites --steps", "--steps needs a value, a whole number"),
    ("train sprites --steps --seed 1", "--steps needs a value"),
    ("train sprites --steps many", r"--steps \(='many'\) must be a whole number"),
    ("train sprites --steps 1.5", "must be a whole number"),
    ("train sprites --learning-rate fast", r"--learning-rate \(='fast'\) must be a number"),
    ("train sprites --attention-conditioned-masks maybe", "must be True or False"),
    ("train sprites --steps 0", r"`steps` \(=0\) must be at least 1"),
    ("train sprites --seed -1", r"`seed` \(=-1\) must be at least 0"),
    ("train sprites --num-slots 0", r"`num_slots` \(=0\) must be at least 1"),
    ("train sprites --learning-rate nan", "must be 0 or more, and finite"),
    ("train sprites --ema-decay 1", "at least 0 and below 1"),
    ("train sprites --precision half", "one of auto, float32, bfloat16"),
    ("train sprites --device potato", "use auto, cpu, cuda"),
    ("train sprites -s 1", "has no option -s"),
    ("train --resum RUN", "did you mean --resume?"),
    ("train sprites --resume RUN", "is not a run of sprites"),
    ("train --resume RUN --out elsewhere", "omit one"),
    ("evaluate", "WEIGHTS is missing"),
    ("evaluate sprites-paper", "objecthood train sprites-paper"),
    ("evaluate RUN again", "unexpected argument"),
    ("evaluate photos-slots", "the images of these weights, 'train', are not here; add --data-path PATH"),
    ("evaluate RUN --split tset", "did you mean test?"),
    ("evaluate RUN --num-scenes 0", "at least 1"),
    ("evaluate RUN --num-scenes few", "must be a whole number"),
    ("evaluate RUN --recipe sprits", "did you mean sprites?"),
    ("predict --weights RUN", "IMAGE is missing"),
    ("predict x.png --weights sprites-paper", "objecthood train sprites-paper"),
    ("evaluate RUN --iterations 0", "at least 1"),
    ("predict x.png --weights RUN --slots 257", "at most 256"),
    ("predict x.png --weights RUN --iterations 0", "at least 1"),
    ("predict x.png --weights RUN --skip-bad=yes", "takes no value"),
    ("predict x.png --weights RUN --also cutout", "did you mean cutouts?"),
    ("train sprites --out NEW --log tensorbord", "did you mean tensorboard?"),
    ("show", "WHAT is missing"),
    ("show tetromino", "did you mean tetrominoes?"),
    ("list all", "allowed are recipes, weights"),
    ("list wieghts", "did you mean weights?"),
    ("list weights all", "unexpected argument"),
    ("doctor --fast", "has no option --fast"),
]
NOT_POSSIBLE = [
    ("train tetrominoes --out RUN", "holds a run already"),
    ("train tetrominoes --out FILE/run", "FILE/run: Not a directory"),
    ("train folder --out NEW", "--data-path FOLDER"),
    ("train folder --out NEW --data-path none", "not a folder"),
    ("train sprites --out NEW --data clever", "must be one of tetrominoes, sprites, "),
    ("train none.py", r"no recipe file \(.py\) at none.py"),
    ("train BROKEN.py --out NEW", "ZeroDivisionError.*--debug"),
    ("train --resume none", "not a run folder"),
    ("train --resume RUN --steps 9", r"started with other settings.*\(4, 9\)"),
    ("evaluate none", "no weight file at none"),
    ("evaluate NEW", "no weight file|not a run folder"),
    ("evaluate FILE", "not a weight file"),
    ("evaluate RUN --recipe sprites --num-scenes 1", "Resize with"),
    ("predict none.png --weights RUN --out NEW", "no such file"),
    ("predict FILE --weights RUN --out NEW", "not a readable image"),
    ("predict FILE --weights RUN --out RUN", "use a new or empty output folder"),
    ("show FILE", "not a weight file"),
]


@pytest.mark.parametrize(("typed", "answer", "code"), [(*case, 2) for case in WRONGLY_TYPED])
def test_wrongly_typed(capsys, trained, tmp_path, typed, answer, code, scoreboard):
    check_error(capsys, trained, tmp_path, typed, answer, code)
    scoreboard("The command", "user errors: one line with what to do, and the exit code", 1)


@pytest.mark.parametrize(("typed", "answer", "code"), [(*case, 1) for case in NOT_POSSIBLE])
def test_not_possible(capsys, trained, tmp_path, typed, answer, code, unchecked, scoreboard):
    check_error(capsys, trained, tmp_path, typed, answer, code)
    scoreboard("The command", "user errors: one line with what to do, and the exit code", 1)


def check_error(capsys, trained, tmp_path, typed, answer, code):
    """Exactly one line on stderr that holds `answer`, and the exit code."""
    (tmp_path / "FILE").write_text("no weights, no image")
    (tmp_path / "BROKEN.py").write_text("recipe = 1 / 0")
    places = {"RUN": trained} | {name: tmp_path / name for name in ("FILE", "NEW", "BROKEN.py")}
    for name, place in places.items():
        typed = re.sub(rf"\b{re.escape(name)}\b", str(place), typed)
    got, _, complaints = run(capsys, *typed.split())
    assert got == code, complaints
    assert len(complaints) == 1 and complaints[0].startswith("error: "), complaints
    assert re.search(answer, complaints[0]), complaints


def test_debug_shows_where(capsys):
    code, _, complaints = run(capsys, "show", "--debug", "nothing")
    assert code == 2 and complaints[0].startswith("Traceback") and complaints[-1].startswith("error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="writes to Linux's /dev/full")
@pytest.mark.parametrize("stop, code", [(Preempted, 75), (KeyboardInterrupt, 130), (BrokenPipeError, 0)])
def test_exit_codes_where_nothing_can_be_said(monkeypatch, stop, code):
    """Nobody reads what is printed (a closed terminal, `| head`): that is no error of its own."""

    def stopped(arguments):
        sys.stdout.write("much")
        raise stop

    monkeypatch.setattr("objecthood.cli.main.run", stopped)
    with open("/dev/full", "w") as out, open("/dev/full", "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main([]) == code
        out.flush(), err.flush()  # as Python does at its end


def test_a_refused_training_leaves_the_folder_free(undrawn, capsys, tmp_path):
    assert run(capsys, "train", "tetrominoes", "--out", tmp_path / "run", *TINY, "--data", "clevr")[0] == 1
    assert run(capsys, "train", "tetrominoes", "--out", tmp_path / "run", *TINY)[0] == 0


def test_train_says_what_and_where(capsys, tmp_path):
    code, said, complaints = run(
        capsys, "train", "--seed", "3", "tetrominoes", *TINY, "--out", tmp_path / "r", "--num_slots=5"
    )
    assert code == 0 and not complaints
    assert "FG-ARI" in said and "device" in said and "4 generated tetrominoes scenes held out" in said
    for file in ("index.html", "latest.png", "weights.safetensors"):
        assert str(tmp_path / "r" / file) in said and (tmp_path / "r" / file).exists()
    settings = json.loads((tmp_path / "r" / "recipe.json").read_text())
    assert (settings["seed"], settings["num_slots"], settings["steps"]) == (3, 5, 4)


def test_default_folder(undrawn, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "train", "tetrominoes", *TINY, "--seed", "2")[0] == 0
    assert (tmp_path / "runs" / "tetrominoes-s2" / "result.json").exists()


def stops_at_two(monkeypatch):
    """Ctrl-C comes in the third step, until the patch is undone."""
    task, loss = oh.recipes.FastTetrominoes, oh.recipes.FastTetrominoes.loss

    def stopped(self, model, scenes, step):
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return loss(self, model, scenes, step)

    monkeypatch.setattr(task, "loss", stopped)


def test_stop_and_resume(undrawn, capsys, trained, tmp_path, monkeypatch):
    again = tmp_path / "again"
    stops_at_two(monkeypatch)
    code, said, _ = run(capsys, "train", "tetrominoes", *TINY, "--out", again, "--precision", "float32")
    assert code == 130 and f"objecthood train --resume {again}" in said
    code, _, complaints = run(capsys, "evaluate", again)
    assert code == 1 and "no weights yet" in complaints[0]
    monkeypatch.undo()
    leave_out_images(monkeypatch)
    assert run(capsys, "train", "--resume", again)[0] == 0
    one, other = (json.loads((run / "result.json").read_text())["scores"] for run in (trained, again))
    assert one == pytest.approx(other, abs=1e-6)


def test_resume_alone_takes_the_newest_unfinished_run(undrawn, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, complaints = run(capsys, "train", "--resume")
    assert code == 2 and "there is no unfinished run in runs/" in complaints[0]
    stops_at_two(monkeypatch)
    for seed in (5, 6):
        assert run(capsys, "train", "tetrominoes", *TINY, "--seed", seed)[0] == 130
    os.utime("runs/tetrominoes-s6/metrics.jsonl", (1, 1))
    monkeypatch.undo()
    leave_out_images(monkeypatch)
    monkeypatch.chdir(tmp_path)
    code, _, complaints = run(capsys, "train", "sprites", "--resume")
    assert code == 2 and "no unfinished run of sprites" in complaints[0]
    for seed, typed in ((5, ["--resume"]), (6, ["tetrominoes", "--resume", "--device", "cpu"])):
        code, said, _ = run(capsys, "train", *typed)
        assert code == 0 and f"runs/tetrominoes-s{seed}" in said.splitlines()[0]
        assert (tmp_path / f"runs/tetrominoes-s{seed}/result.json").exists()
    assert run(capsys, "train", "--resume")[0] == 2


def test_evaluate_equals_python(capsys, trained, tmp_path):
    file = tmp_path / "scores.json"
    arguments = ["--num-scenes", "6", "--iterations", "2", "--split", "validation", "--json", file]
    arguments += ["--csv", tmp_path / "scores.csv"]
    code, said, _ = run(capsys, "evaluate", trained / "weights.safetensors", *arguments)
    assert code == 0 and "6 generated tetrominoes scenes held out, 2 iterations" in said
    model = oh.load(trained / "weights.safetensors")
    recipe = oh.recipes.from_dict(model.recipe.to_dict() | {"test_iterations": 2})
    scores = oh.evaluate(model, recipe, split="validation", num_scenes=6)
    facts = json.loads(file.read_text())
    assert facts["scores"] == pytest.approx(scores, abs=1e-6) and facts["split"] == "validation"
    assert all(f"{value:.4f}" in said for value in scores.values())
    head, *rows = csv.reader((tmp_path / "scores.csv").read_text().splitlines())
    assert head == ["score", "value"]
    assert {name: float(value) for name, value in rows} == pytest.approx(scores, abs=1e-6)


def test_evaluate_a_run_gives_its_result(capsys, trained, tmp_path):
    assert run(capsys, "evaluate", trained, "--json", tmp_path / "scores.json")[0] == 0
    result = json.loads((trained / "result.json").read_text())
    assert json.loads((tmp_path / "scores.json").read_text())["scores"] == pytest.approx(
        result["scores"], abs=1e-6
    )


def test_list(capsys):
    code, said, complaints = run(capsys, "list")
    assert code == 0 and not complaints
    for name, recipe in oh.RECIPES.items():
        assert recipe.description and name in said
        assert " ".join(recipe.description.split()[:3]) in said and f"{recipe.steps:,}" in said


def test_show(capsys, trained):
    def shown(what):
        code, said, _ = run(capsys, "show", what)
        assert code == 0
        return json.loads(said)

    code, said, _ = run(capsys, "show", "sprites", "--recipe")
    assert code == 0 and json.loads(said) == oh.RECIPES["sprites"].to_dict()
    assert shown("sprites-paper") == oh.RECIPES["sprites-paper"].to_dict()
    assert shown(trained)["recipe"]["steps"] == 4 and shown(trained)["result"]["scores"]
    assert shown(trained / "weights.safetensors")["version"] == oh.__version__


def test_predict(capsys, trained, tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "out"
    folder.mkdir()
    for index in range(2):
        values = np.random.default_rng(index).integers(0, 256, (20, 31, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    code, said, complaints = run(capsys, "predict", folder, "--weights", trained, "--out", out)
    assert code == 0 and not complaints
    assert said.splitlines()[-1] == f"2 of 2 images; written to {out}"
    (folder / "bad.png").write_bytes(b"\x89PNG")
    code, said, complaints = run(
        capsys,
        "predict",
        folder,
        "--weights",
        trained,
        "--out",
        tmp_path / "b",
        "--skip-bad",
        "--no-animation",
    )
    assert code == 1 and len(complaints) == 1 and "bad.png" in complaints[0]
    assert said.splitlines()[-1].startswith("2 of 3 images, 1 skipped; written to ")
    assert not list((tmp_path / "b").glob("*.gif")) and len(list((tmp_path / "b").glob("*.png"))) == 4
    code, _, complaints = run(
        capsys, "predict", folder / "bad.png", "--weights", trained, "--out", tmp_path / "c"
    )
    assert code == 1 and len(complaints) == 1 and "bad.png" in complaints[0]


def test_recipe_of_your_own(capsys, tmp_path):
    (tmp_path / "own.py").write_text(OWN_RECIPE)
    out, own = tmp_path / "run", tmp_path / "own.py"
    assert run(capsys, "train", own, "--out", out, "--num-slots", "3")[0] == 0
    code, _, complaints = run(capsys, "evaluate", out)
    assert code == 1 and "name the Python file" in complaints[0]
    code, said, _ = run(capsys, "evaluate", out, "--recipe", own, "--num-scenes", "2")
    assert code == 0 and "3 slots" in said
    assert run(capsys, "train", own, "--resume", out)[0] == 0
    assert json.loads(run(capsys, "show", own)[1])["name"] == "mine"
    own.write_text("x = 1")
    assert "module-level `recipe`" in run(capsys, "train", own)[2][0]


def test_doctor(capsys, monkeypatch, tmp_path):
    code, said, complaints = run(capsys, "doctor")
    assert code == 0 and not complaints and said.count("```") == 2
    for fact in ("torch", "processor", "device", "precision", "largest image", "pycocotools (optional)"):
        assert f"\n{fact}" in said
    monkeypatch.setitem(doctor.NEEDED, "no-such-package", (1, 0))
    code, said, _ = run(capsys, "doctor")
    assert code == 1 and "pip install 'no-such-package>=1.0'" in said


def test_doctor_needs_what_the_package_needs():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE).group(1)
    wanted = {name: ".".join(map(str, least)) for name, least in doctor.NEEDED.items()}
    assert dict(re.findall(r'"([\w-]+)>=([\d.]+)"', listed)) == wanted


def test_data_is_packed(tmp_path, capsys, shared_data):
    source = shared_data / "multi_object" / "tetrominoes_train.tfrecords"
    code, said, _ = run(capsys, "data", "convert", str(source), "--out", str(tmp_path / "packed"))
    assert code == 0 and "of tetrominoes in" in said
    assert (tmp_path / "packed" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        ("data rendr clevr", "did you mean render"),
        ("data render clevr", "--out is missing"),
        ("data render clevr --out x --objects 3-", "must be a number or a range"),
        ("data render clever --out x", "clevr"),
        ("data convert x.tfrecords", "--out is missing"),
    ],
)
def test_data_typed_wrongly(typed, answer, capsys):
    code, _, complaints = run(capsys, *typed.split())
    assert code == 2 and len(complaints) == 1 and answer in complaints[0]


@pytest.mark.parametrize("load, cores, wanted", [(0.2, 8, 8), (3.4, 8, 5), (11.0, 2, 1), (0.0, 1, 1)])
def test_predict_takes_the_cores_that_are_free(monkeypatch, load, cores, wanted):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    assert idle_cores() == wanted
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert doctor._machine()["threads of predict"] == f"{wanted} (the idle cores)"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert doctor._machine()["threads of predict"] == "3"


@pytest.mark.parametrize("policy, waiting", [("PASSIVE", "sleep"), ("active", "spin")])
def test_doctor_says_how_threads_wait(monkeypatch, policy, waiting):
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert doctor._machine()["waiting threads"].startswith(waiting)
