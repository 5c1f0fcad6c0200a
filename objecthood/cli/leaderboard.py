"""`objecthood leaderboard`: slot modules on sets of scenes, at an equal budget, with floors and verdicts."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from objecthood.cli.listing import console
from objecthood.cli.lookup import choose_device
from objecthood.cli.options import UsageError, parse, several
from objecthood.cli.sweep import Member, check_number, separate, spread, trained
from objecthood.runtime.files import is_number, read_json, replacing, write_json
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    import torch

Result = dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class LeaderboardOptions:
    """What to compare."""

    modules: str = "slot-attention,soft-k-means"
    """Slot modules, comma-separated; the first gives the number of equal steps."""
    sets: str = "sprites,texture-tinted,texture-patterned"
    """Sets of scenes, comma-separated: tetrominoes, sprites, sprites-coloured, texture-LEVEL, or rendered
    ones in a folder: clevr6-like=FOLDER, clevr6-textured=FOLDER."""
    seeds: str = "0..2"
    """Seeds: a range (0..2) or a list (0,1,2)."""
    cpu_seconds: float = 300.0
    """CPU seconds of training for each module, set and seed (wall seconds on a GPU)."""
    test_scenes: int | None = None
    """Number of test scenes; the recipe's by default."""
    out: str = dataclasses.field(default="runs/leaderboard", metadata={"metavar": "FOLDER"})
    """Folder for runs, leaderboard.json and leaderboard.md; repeating the command continues it."""
    processes: int = 1
    """Number of runs trained in parallel, with one thread each."""
    plan: bool = False
    """Only measure the cost of a step and print the estimated time."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""


def leaderboard(arguments: list[str]) -> int:
    """Compare slot modules on several sets of scenes: --modules A,B --sets C,D --seeds 0..2.

    Each module is trained for the same CPU seconds, and for as many steps as the first module. The table has
    scores of one restart and of the best of several, floors of each set, failed seeds, and whether a module
    differs from the best by more than noise (paired bootstrap over test scenes and seeds). The total time is
    estimated from a few steps and printed first. Repeating the command continues a stopped leaderboard.
    """
    options = parse(LeaderboardOptions, arguments, "leaderboard", leaderboard)
    from objecthood.nn import SLOT_MODULES

    modules = _unique("modules", several("modules", options.modules, list(SLOT_MODULES)))
    sets = _sets(options.sets)
    typed = separate(options.seeds)
    if not all(seed.strip().isdecimal() for seed in typed):
        raise UsageError(f"--seeds (={options.seeds!r}) must be numbers such as 0..2 or 0,1,2")
    if max(map(len, typed)) > 18:
        raise UsageError(f"--seeds (={options.seeds!r:.60}) must be numbers of at most 18 digits")
    seeds = sorted({int(seed) for seed in typed})
    check_number(2 * len(modules) * len(sets) * len(seeds), "the leaderboard", "runs")
    if not 0 < options.cpu_seconds < 1e7:
        raise UsageError(f"--cpu-seconds (={options.cpu_seconds}) must be above 0 and below ten million")
    if options.processes < 1:
        raise UsageError(f"--processes (={options.processes}) must be at least 1")
    if options.test_scenes is not None and options.test_scenes < 1:
        raise UsageError(f"--test-scenes (={options.test_scenes}) must be at least 1")
    out = Path(options.out)
    plan = _plan(out, options)
    device = choose_device(options.device)
    try:
        members = list(_members(modules, sets, seeds, plan, options, out, device))
    finally:
        write_json(out / "plan.json", plan)
    _say_how_long(members, out, plan, options)
    if options.plan:
        return 0
    results = {
        member.name: result for member, result in trained(members, out, str(device), options.processes)
    }
    facts = _facts(modules, sets, members, results, out, options)
    write_json(out / "leaderboard.json", facts)
    from objecthood.analysis.leaderboard import page

    text = page(facts)
    with replacing(out / "leaderboard.md") as file:
        file.write(text.encode())
    tables = [line for line in text.splitlines() if line.startswith(("|", "#"))]
    console().print("\n".join(tables), soft_wrap=True)
    echo(f"written to {out / 'leaderboard.json'} and {out / 'leaderboard.md'}")
    return 0 if all(results.values()) else 1


def _sets(typed: str) -> dict[str, str]:
    """Names of sets, and the folder of each that is rendered."""
    from objecthood.analysis.leaderboard import RENDERED, SETS

    entries = [entry.strip().partition("=") for entry in typed.split(",") if entry.strip()]
    folders = {name: folder for name, _, folder in entries}
    sets = _unique("sets", several("sets", ",".join(name for name, *_ in entries), list(SETS)))
    for name in sets:
        if name in RENDERED and not folders[name]:
            raise UsageError(
                f"--sets (={name!r}) needs a folder of scenes: {name}=FOLDER, from `objecthood data render "
                f"clevr --background {RENDERED[name]} --out FOLDER`, one for each --split"
            )
        if folders[name] and name not in RENDERED:
            raise UsageError(f"--sets (={name}={folders[name]!r}) is generated and has no folder; omit it")
    return {name: folders[name] for name in sets}


def _unique(name: str, values: list[str]) -> list[str]:
    if not values:
        raise UsageError(f"--{name} (='') must name at least one")
    return list(dict.fromkeys(values))


def _plan(out: Path, options: LeaderboardOptions) -> dict[str, Any]:
    """The budget, and the measured cost of a step of each cell, kept from an earlier call."""
    wanted = {"cpu_seconds": options.cpu_seconds, "test_scenes": options.test_scenes}
    if not (out / "plan.json").exists():
        out.mkdir(parents=True, exist_ok=True)
        return wanted | {"seconds_per_step": {}}
    plan = read_json(out / "plan.json")
    for key, value in wanted.items():
        if plan.get(key) != value:
            raise UsageError(
                f"{out} holds a leaderboard with --{key.replace('_', '-')} {plan.get(key)}, not {value}; "
                "name another folder with --out"
            )
    costs, steps = plan.get("seconds_per_step"), plan.setdefault("equal_steps", {})
    if not all(
        isinstance(table, dict) and all(is_number(value) and value > 0 for value in table.values())
        for table in (costs, steps)
    ):
        raise ValueError(f"{out / 'plan.json'} is damaged; remove it to measure a step of each module anew")
    return plan


def _members(
    modules: list[str],
    sets: dict[str, str],
    seeds: list[int],
    plan: dict[str, Any],
    options: LeaderboardOptions,
    out: Path,
    device: torch.device,
) -> Iterator[Member]:
    """The runs of the leaderboard; costs that are not in the plan are measured and added to it."""
    from objecthood.analysis.leaderboard import recipe_of, seconds_per_step

    costs = plan["seconds_per_step"]
    for name, folder in sets.items():
        steps: dict[str, int] = {}
        for module in modules:
            cell = f"{name} {module}"
            if cell not in costs:
                echo(f"measuring a step of {cell}", flush=True)
                recipe = recipe_of(name, module, seed=0, steps=1, folder=folder)
                costs[cell] = seconds_per_step(recipe, device)
            steps[module] = max(1, int(options.cpu_seconds / costs[cell]))
        plan.setdefault("equal_steps", {}).setdefault(name, steps[modules[0]])
        for module in modules:
            for at, count in _columns(steps[module], plan["equal_steps"][name]).items():
                for seed in seeds:
                    recipe = recipe_of(
                        name, module, seed=seed, steps=count, test_scenes=options.test_scenes, folder=folder
                    )
                    yield Member({"set": name, "module": module, "at": at, "seed": str(seed)}, recipe)


def _columns(affordable: int, equal: int) -> dict[str, int]:
    """Steps of each column; one run serves for both if they are equal."""
    return {"cpu": affordable} if affordable == equal else {"cpu": affordable, "steps": equal}


def _say_how_long(
    members: list[Member], out: Path, plan: dict[str, Any], options: LeaderboardOptions
) -> None:
    costs = plan["seconds_per_step"]
    left = [member for member in members if not (out / member.name / "result.json").exists()]
    seconds = sum(
        member.recipe.steps * costs[f"{member.changes['set']} {member.changes['module']}"] for member in left
    )
    echo(
        f"{len(left)} of {len(members)} runs are left: about {_duration(seconds)} of training, "
        f"{_duration(seconds / options.processes)} with --processes {options.processes} on idle cores; "
        "validation and test scenes come on top",
        flush=True,
    )


def _duration(seconds: float) -> str:
    """Seconds in words.

    >>> _duration(50), _duration(300), _duration(9000)
    ('50 seconds', '5 minutes', '2.5 hours')
    """
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _facts(
    modules: list[str],
    sets: Iterable[str],
    members: list[Member],
    results: dict[str, Result],
    out: Path,
    options: LeaderboardOptions,
) -> dict[str, Any]:
    """The leaderboard as JSON values."""
    from objecthood.analysis.leaderboard import floors_of, shown_scores, verdicts
    from objecthood.runtime.environment import describe

    found: dict[str, Any] = {}
    for name in sets:
        board: dict[str, Any] = {"modules": {}}
        by_module: dict[str, dict[int, list[float | None]]] = {}
        recipes = []
        for module in modules:
            own = [
                member
                for member in members
                if (member.changes["set"], member.changes["module"]) == (name, module)
            ]
            at_cpu = [member for member in own if member.changes["at"] == "cpu"]
            at_steps = [member for member in own if member.changes["at"] == "steps"] or at_cpu
            cells = {at: _cell(some, results, out) for at, some in (("cpu", at_cpu), ("steps", at_steps))}
            board["modules"][module] = cells
            recipes.append(at_cpu[0].recipe)
            by_module[module] = {
                member.recipe.seed: _by_scene(member, out) for member in at_cpu if results[member.name]
            }
        for module, verdict in verdicts(by_module).items():
            board["modules"][module]["verdict"] = verdict
        board["floors"], board["shown"] = floors_of(recipes), shown_scores(recipes[0])
        board["protocol"] = recipes[0].protocol
        found[name] = board
    return {
        "protocol": f"{options.cpu_seconds:g} CPU seconds of training for each module, set and seed (wall "
        "seconds on a GPU), steps from the measured cost of a step; mean ± standard deviation over seeds. "
        "The verdict compares one restart at equal CPU seconds with the module of the highest mean: 95 % "
        "interval of a paired bootstrap over test scenes and seeds. Untrained floors: the highest of the "
        "modules.",
        "sets": found,
        "machine": describe(),
    }


def _cell(members: list[Member], results: dict[str, Result], out: Path) -> dict[str, Any]:
    """Scores and costs of a module in a column, over seeds."""
    from objecthood.analysis.leaderboard import picture_of

    done = [(member, result) for member in members if (result := results[member.name])]
    names = done[0][1]["scores"] if done else ()
    return {
        "seeds": [member.recipe.seed for member in members],
        "failed": [member.recipe.seed for member in members if not results[member.name]],
        "steps": members[0].recipe.steps,
        "scores": {name: spread([result["scores"][name] for _, result in done]) for name in names},
        "cpu_seconds": spread([result["cpu_seconds"] for _, result in done]),
        "commits": sorted({result["machine"]["commit"] for _, result in done}),
        "picture": picture_of(out / done[0][0].name, out) if done else "",
    }


def _by_scene(member: Member, out: Path) -> list[float | None]:
    """The main score of every test scene, one restart, computed once."""
    from objecthood import checkpoint
    from objecthood.analysis.leaderboard import scores_by_scene

    file = out / member.name / "scenes.json"
    if not file.exists():
        model = checkpoint.load(out / member.name / "weights.safetensors")
        write_json(file, {member.recipe.main_score: scores_by_scene(model, member.recipe)})
    values = read_json(file).get(member.recipe.main_score)
    if not isinstance(values, list) or not all(value is None or is_number(value) for value in values):
        raise ValueError(f"{file} is damaged; remove it to score the scenes anew")
    return values
