"""`objecthood benchmark`: cost of training and inference, relative to a reference implementation."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

from objecthood.cli.lookup import choose_device
from objecthood.cli.options import UsageError, parse
from objecthood.runtime.files import check_named, write_named
from objecthood.runtime.terminal import echo

if typing.TYPE_CHECKING:
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class BenchmarkOptions:
    """What to measure."""

    resolutions: str = "35,64,128"
    """Comma-separated image sides in pixels: 35 (4 slots), 64 (6 slots), 128 (7 slots)."""
    seconds: float = 120.0
    """Approximate time for each resolution; more time gives narrower quartiles."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int = 1
    """Number of CPU threads."""
    out: str = dataclasses.field(default="results/benchmark.json", metadata={"metavar": "FILE"})
    """JSON file for all measurements."""


def benchmark(arguments: list[str]) -> int:
    """Measure the cost of training and inference, relative to a reference implementation.

    The reference implements the paper's model in eager float32 PyTorch. Models run alternately in one
    process. The tables show medians; the file also holds quartiles. A ratio below 1 means cheaper than the
    reference, per image: in CPU seconds on a CPU, in wall seconds on a GPU.
    """
    options = parse(BenchmarkOptions, arguments, "benchmark", benchmark)
    if not all(part.strip().isdecimal() for part in options.resolutions.split(",")):
        raise UsageError(f"--resolutions {options.resolutions!r} must be numbers such as 35,64")
    for name, value in (("seconds", options.seconds), ("threads", options.threads)):
        if not 0 < value < 1e6:
            raise UsageError(f"--{name} (={value}) must be above 0 and below a million")
    sides = [int(part) for part in options.resolutions.split(",")]
    Path(options.out).parent.mkdir(parents=True, exist_ok=True)
    check_named(options.out)
    device = choose_device(options.device)

    import torch

    from objecthood.benchmarks.run import benchmark as measure
    from objecthood.runtime.progress import RunProgress

    torch.set_num_threads(options.threads)
    with RunProgress("benchmark", len(sides)) as progress:
        results = measure(sides, options.seconds, device, progress.say)
    write_named(options.out, json.dumps(results, indent=1) + "\n")
    show(results)
    echo(f"written to {options.out}")
    return 0


def show(results: dict[str, Any]) -> None:
    """Print the results as tables."""
    from objecthood.cli import listing

    console = listing.console()
    peak = results["peaks"]
    console.print(
        f"{results['machine']['processor']}, {results['device']}, {results['machine']['threads']} threads: "
        f"matmul {peak['float32'] / 1e9:.0f} (float32) and {peak['bfloat16'] / 1e9:.0f} (bfloat16) Gflop/s, "
        f"copy {peak['copy'] / 1e9:.1f} GB/s"
    )
    for resolution, found in results["resolutions"].items():
        console.print(
            f"\n{resolution} pixels, {found['num_slots']} slots; milliseconds per image", soft_wrap=True
        )
        console.print(_costs(found))
        for name, stages in found["stage_shares"].items():
            shares = ", ".join(f"{stage} {100 * part['share']:.0f} %" for stage, part in stages.items())
            console.print(f"time of {name}: {shares}", soft_wrap=True)


def _costs(found: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("task")
    table.add_column("model")
    for heading in ("batch", "CPU ms", "wall ms", "ratio", "quartiles", "Gflop/s", "x roofline", "peak MB"):
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
