"""`objecthood sweep`: train a recipe with several seeds and settings; means and standard deviations."""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import io
import itertools
import math
import multiprocessing
import os
import re
import statistics
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from objecthood.cli.listing import console
from objecthood.cli.lookup import choose_device, find_recipe, split_name
from objecthood.cli.options import UsageError, is_option, parse
from objecthood.runtime import limits
from objecthood.runtime.files import refuse_link, replacing, write_json
from objecthood.runtime.signals import PREEMPTED, StopRequest
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    from objecthood.recipes import Recipe

SEEDS = "0..4"
"""Default seeds."""
_RANGE = re.compile(r"([0-9]{1,18})\.\.([0-9]{1,18})")
_SINGLE = {"out", "device", "data-path", "description", "expected"}
"""Options whose values may contain commas."""


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """Settings of the sweep."""

    out: str = dataclasses.field(default="", metadata={"metavar": "FOLDER"})
    """Folder of the sweep, with a run folder per setting and seed; runs/sweep-NAME by default."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    changes: dict[str, str]
    """Its swept options as typed, including the seed."""
    recipe: Recipe

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return ",".join(f"{key}={value}" for key, value in self.changes.items()).replace("/", "_")

    @property
    def setting(self) -> str:
        """Its swept options without the seed."""
        return ", ".join(f"{key} {value}" for key, value in self.changes.items() if key != "seed")


def sweep(arguments: list[str]) -> int:
    """Train a recipe with several seeds and settings: NAME --seed 0..4 --field A,B.

    Each field of the recipe takes a value, a list (A,B,C) or a range of whole numbers (0..4). All
    combinations are trained one after the other, with five seeds by default. Repeating the command continues
    a stopped sweep. The mean and sample standard deviation over seeds are printed and written to sweep.json
    and sweep.csv; runs without a finite gradient count as failed.
    """
    name, rest = split_name(arguments)
    if not name and not {"-h", "--help"} & set(rest):
        raise UsageError("sweep needs a recipe (see objecthood list) or a Python file with one")
    base = find_recipe(name or "tetrominoes")
    kinds = [("recipe", type(base), base), ("sweep", SweepOptions, SweepOptions())]
    both: Any = dataclasses.make_dataclass("Options", kinds, frozen=True)
    members, settings = [], SweepOptions()
    for changes, words in combinations(rest):
        options = parse(both, words, f"sweep {name or 'NAME'}", sweep, flags=False)
        members.append(Member(changes, options.recipe))
        settings = options.sweep
    out = Path(settings.out or f"runs/sweep-{base.name}")
    device = choose_device(settings.device, base)

    results: list[tuple[Member, dict[str, Any] | None]] = []
    for member, result in trained(members, out, str(device)):
        results.append((member, result))
        rows = summary(results)
        write_json(out / "sweep.json", {"recipe": base.to_dict(), "rows": rows})
        write_csv(rows, out / "sweep.csv")
    print_table(base.name, rows)
    echo(f"written to {out / 'sweep.json'} and {out / 'sweep.csv'}")
    return 0 if all(result for _, result in results) else 1


def trained(
    members: Sequence[Member], out: Path, device: str, processes: int = 1
) -> Iterator[tuple[Member, dict[str, Any] | None]]:
    """Train the members, or go on with them, and yield each with its result in their order; None for a run
    without a finite gradient. With more than one of `processes`, so many members are trained at a time."""
    if processes == 1:
        for number, member in enumerate(members, start=1):
            echo(f"{number} of {len(members)}: {member.name}", flush=True)
            yield member, train_member(member, out, device)
        return
    started, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    with (
        StopRequest() as stop,
        concurrent.futures.ProcessPoolExecutor(processes, started, one_thread) as pool,
    ):
        waiting = [pool.submit(train_in_pool, member, out, device) for member in members]
        try:
            with stop.at_once():
                for number, (member, future) in enumerate(zip(members, waiting, strict=True), start=1):
                    yield member, future.result()
                    echo(f"{number} of {len(members)} done: {member.name}", flush=True)
        except BaseException:  # they save the step that they are at
            for child in set(multiprocessing.active_children()).difference(others):
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def train_in_pool(member: Member, out: Path, device: str) -> dict[str, Any] | None:
    """`train_member` in a process of several, which ends when it is stopped instead of taking the next."""
    try:
        return train_member(member, out, device)
    except KeyboardInterrupt:
        os._exit(PREEMPTED)


def one_thread() -> None:
    """Give a process of several one thread."""
    import torch

    torch.set_num_threads(1)


def train_member(member: Member, out: Path, device: str) -> dict[str, Any] | None:
    """Train a member in its folder of `out`, or go on with it."""
    from objecthood.train import train

    folder = refuse_link(out / member.name)
    try:
        return train(member.recipe, folder, resume=(folder / "recipe.json").exists(), device=device)
    except FloatingPointError as error:
        echo(f"failed: {error}", flush=True)
        return None


def combinations(arguments: list[str]) -> list[tuple[dict[str, str], list[str]]]:
    """Every combination of swept values: its swept options, and its arguments.

    >>> [changes for changes, _ in combinations(["--steps", "7", "--seed", "1..2"])]
    [{'seed': '1'}, {'seed': '2'}]
    >>> combinations(["--rate=0.1,0.2", "--seed", "3"])[1]
    ({'rate': '0.2', 'seed': '3'}, ['--rate=0.2', '--seed=3'])
    """
    plain: list[str] = []
    several: dict[str, list[str]] = {}
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        key = option.lstrip("-").replace("_", "-")
        if not is_option(word) or word in ("-h", "--help"):
            plain.append(word)
            continue
        value = value if equals else next(words, "")
        values = [value] if key in _SINGLE else list(dict.fromkeys(separate(value)))
        if len(values) > 1 or key == "seed":
            several[key] = values
        else:
            plain.append(f"{option}={value}")
    seeds = several.pop("seed", separate(SEEDS))
    # 01 is seed 1 once more
    several["seed"] = list(dict.fromkeys(str(int(seed)) if seed.isdecimal() else seed for seed in seeds))
    check_number(math.prod(map(len, several.values())), "the sweep", "runs")
    return [
        (
            dict(zip(several, chosen, strict=True)),
            plain + [f"--{k}={v}" for k, v in zip(several, chosen, strict=True)],
        )
        for chosen in itertools.product(*several.values())
    ]


def separate(value: str) -> list[str]:
    """The values of a list ("a,b") or of a range of whole numbers ("0..4").

    >>> separate("0..2"), separate("0.1,0.2"), separate("grey")
    (['0', '1', '2'], ['0.1', '0.2'], ['grey'])
    """
    match = _RANGE.fullmatch(value)
    if match:
        first, last = map(int, match.groups())
        if first > last:
            raise UsageError(f"range {value} must be ascending; write {last}..{first}")
        check_number(last + 1 - first, f"range {value}", "values")
        return [str(number) for number in range(first, last + 1)]
    return value.split(",")


def check_number(count: int, what: str, of: str) -> None:
    """UsageError for more than `limits.RUNS`."""
    if count > limits.RUNS:
        raise UsageError(f"{what} has {count} {of}; at most {limits.RUNS} are allowed, take fewer")


def summary(results: list[tuple[Member, dict[str, Any] | None]]) -> list[dict[str, Any]]:
    """For each setting: seeds, failed seeds, and mean, sample standard deviation and values of each score."""
    rows = []
    for setting in dict.fromkeys(member.setting for member, _ in results):
        own = [(member.recipe.seed, result) for member, result in results if member.setting == setting]
        done = [result for _, result in own if result]
        scores = {
            name: spread([result["scores"][name] for result in done])
            for name in (done[0]["scores"] if done else ())
        }
        rows.append(
            {
                "setting": setting,
                "seeds": [seed for seed, _ in own],
                "failed": [seed for seed, result in own if not result],
                "scores": scores,
                "cpu_seconds": spread([result["cpu_seconds"] for result in done]),
                "protocol": done[0]["protocol"] if done else "",
            }
        )
    return rows


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (None for fewer than two values) and the values."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.mean(values) if values else None, "deviation": deviation, "values": values}


def write_csv(rows: list[dict[str, Any]], file: Path) -> None:
    """Write a row for each setting, seed and score."""
    with replacing(file) as content, io.TextIOWrapper(content, "utf-8", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(["setting", "seed", "score", "value"])
        for row in rows:
            done = [seed for seed in row["seeds"] if seed not in row["failed"]]
            for name, numbers in row["scores"].items():
                writer.writerows(
                    (row["setting"], *pair)
                    for pair in zip(done, [name] * len(done), numbers["values"], strict=True)
                )


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print the summary as a table."""
    from rich.table import Table

    from objecthood.recipes.score_names import mean_and_deviation
    from objecthood.recipes.score_names import title as title_of

    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    for column in ("setting", "seeds", "failed", *map(title_of, names), "CPU s"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for row in rows:
        scores = [mean_and_deviation(row["scores"].get(name), 3) for name in names]
        counts = [str(len(row["seeds"])), str(len(row["failed"]))]
        table.add_row(row["setting"] or title, *counts, *scores, mean_and_deviation(row["cpu_seconds"], 0))
    plain = console()
    plain.print(table)
    plain.print(next((row["protocol"] for row in rows if row["protocol"]), ""), soft_wrap=True)
