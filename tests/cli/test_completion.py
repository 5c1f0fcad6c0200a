"""What a shell suggests is what the command takes."""

import re
import shutil
import subprocess

import pytest

from objecthood.cli import commands, completion, main
from objecthood.cli.options import UsageError


def said(capsys, *words):
    assert main.main(words) == 0
    return capsys.readouterr().out


@pytest.fixture
def script(capsys, tmp_path):
    file = tmp_path / "completion.sh"
    file.write_text(said(capsys, "completion", "bash"))
    return file


def suggested(script, *words):
    """What bash offers for the last of `words`, which is begun."""
    typed = " ".join(f"'{word}'" for word in ("objecthood", *words))
    lines = [
        f"source {script}",
        "complete -p objecthood",
        f"COMP_WORDS=({typed}); COMP_CWORD={len(words)}",
        "_shtab_objecthood 2>/dev/null",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    bash = subprocess.run(
        ["bash", "--norc", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        check=True,
        cwd=script.parent,
    )
    registered, *offers = bash.stdout.splitlines()
    assert registered.startswith("complete") and registered.endswith("objecthood")
    return {offer.strip() for offer in offers} - {""}


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_completes_commands_names_and_options(script):
    assert suggested(script, "ev") == {"evaluate"}
    assert suggested(script, "train", "tetr") == {
        "tetrominoes",
        "tetrominoes-guided",
        "tetrominoes-paper",
        "tetrominoes-unmodified",
    }
    assert suggested(script, "show", "sprites-") == {"sprites-paper"}
    assert suggested(script, "train", "sprites", "--num-s") == {"--num-slots"}
    assert suggested(script, "evaluate", "clevr", "--diag") == {"--diagnose"}
    assert suggested(script, "data", "ren") == {"render"}
    assert suggested(script, "data", "render", "--cou") == {"--count"}
    (script.parent / "picture.png").touch()
    assert suggested(script, "predict", "pic") == {"picture.png"}
    assert suggested(script, "evaluate", "clevr", "--json", "pic") == {"picture.png"}


def test_every_command_and_option_is_there_and_no_other(capsys):
    whole = completion.parser(
        commands.COMMANDS, {"train": commands.TrainOptions, "evaluate": commands.EvaluateOptions}
    )
    (words,) = (action.choices for action in whole._actions if action.choices)
    assert list(words) == list(commands.COMMANDS)
    for name, command in words.items():
        parts = next(
            (action.choices for action in command._actions if isinstance(action.choices, dict)), {"": command}
        )
        for part, options in parts.items():
            offered = set(options._option_string_actions) - {"-h", "--help"}
            recipes = ("sprites", "set-clevr-like", "moving-sprites") if name in ("train", "sweep") else ("",)
            for recipe in recipes:
                helped = said(capsys, *(word for word in (name, part, recipe) if word), "--help")
                shown = set(re.findall(r"^│ (--[a-z-]+)", helped, re.MULTILINE))
                assert shown <= offered, (name, part, recipe)
                assert recipe or all(option in helped for option in offered), (name, part)


def test_zsh_and_tcsh_are_there_and_others_refused(capsys):
    assert "#compdef objecthood" in said(capsys, "completion", "zsh")
    assert "complete objecthood" in said(capsys, "completion", "tcsh")
    with pytest.raises(UsageError, match="did you mean bash"):
        commands.completion(["bsh"])
    assert main.main(["completion", "fish"]) == 2
