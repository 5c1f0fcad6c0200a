"""`objecthood benchmark`: what training and inference cost here, beside the paper's model written plainly."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from pathlib import Path
from typing import Any

from objecthood.cli.lookup import choose_device
from objecthood.cli.options import UsageError, parse
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """What is measured."""

    resolutions: str = "35,64,128"
    """Sides of the images, of 35 (4 slots), 64 (6) and 128 (7), with commas between."""
    seconds: float = 120.0
    """For each resolution, about; more gives narrower quartiles."""
    device: str = "auto"
    """auto (a GPU where there is one), cpu, cuda or cuda:N."""
    threads: int = 1
    """Of the processor."""
    out: str = "results/benchmark.json"
    """File to write all numbers to."""


def benchmark(arguments: list[str]) -> int:
    """Measure training steps and inference beside the paper's model written plainly.

    Contestants take turns in one process; medians, and quartiles in the file. A ratio below 1 is cheaper than
    the paper's model in plain eager float32 PyTorch, per image; on a CPU of CPU seconds, on a GPU of wall
    seconds.
    """
    about = inspect.getdoc(benchmark) or ""
    options = parse(BenchmarkOptions, arguments, "benchmark", about)
    if not all(part.strip().isdigit() for part in options.resolutions.split(",")):
        raise UsageError(f"--resolutions {options.resolutions!r} must be numbers such as 35,64")
    for name, value in (("seconds", options.seconds), ("threads", options.threads)):
        if not 0 < value < 1e6:
            raise UsageError(f"--{name} (={value}) must be above 0 and below a million")
    sides = [int(part) for part in options.resolutions.split(",")]
    device = choose_device(options.device)

    import torch

    from objecthood.benchmarks.run import benchmark as measure
    from objecthood.runtime.progress import RunProgress

    torch.set_num_threads(options.threads)
    with RunProgress("benchmark", len(sides)) as progress:
        results = measure(sides, options.seconds, device, progress.say)
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    Path(options.out).write_text(json.dumps(results, indent=1) + "\n")
    show(results)
    echo(f"written to {options.out}")
    return 0


def show(results: dict[str, Any]) -> None:
    """Tables of the results."""
    from objecthood.cli import listing

    console = listing.console()
    peak = results["peaks"]
    console.print(
        f"{results['machine']['processor']}, {results['device']}, {results['machine']['threads']} threads: "
        f"product {peak['float32'] / 1e9:.0f} (float32) and {peak['bfloat16'] / 1e9:.0f} (bfloat16) Gflop/s, "
        f"copy {peak['copy'] / 1e9:.1f} GB/s"
    )
    for resolution, found in results["resolutions"].items():
        console.print(
            f"\n{resolution} pixels, {found['num_slots']} slots; milliseconds an image", soft_wrap=True
        )
        console.print(_costs(found))
        for name, rooms in found["rooms"].items():
            shares = ", ".join(f"{room} {100 * part['share']:.0f} %" for room, part in rooms.items())
            console.print(f"time of {name}: {shares}", soft_wrap=True)


def _costs(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("who")
    for heading in ("batch", "CPU ms", "wall ms", "ratio", "quartiles", "Gflop/s", "times floor", "peak MB"):
        table.add_column(heading, justify="right")
    groups = {"training step": found["training_step"]}
    groups |= {f"inference, {size}": rows for size, rows in found["inference"].items()}
    groups["module, step"] = found["module"]
    for what, rows in groups.items():
        if "skipped" in rows:
            table.add_row(what, rows["skipped"])
            continue
        for name, row in rows.items():
            table.add_row(what, name, *_cells(row))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    ratio, floor = row["ratio"], row.get("floor")
    cells = [
        str(row["batch_size"]),
        f"{row['cpu_ms_per_picture']['median']:.2f}",
        f"{row['wall_ms_per_picture']['median']:.2f}",
        f"{ratio['median']:.3f}",
        f"{ratio['low']:.3f}-{ratio['high']:.3f}",
    ]
    if floor:
        rate = f"{floor['operations_per_second'] / 1e9:.0f}"
        cells += [rate, f"{floor['times_floor']:.1f}", f"{row['peak_bytes'] / 1e6:.0f}"]
    return cells
