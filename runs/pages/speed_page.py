"""The tables of docs/speed.md, from results/benchmark.json and the curves of results/*-seed*.json;
`runs/pages/tables.py` writes them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("encoder", "slot attention", "decoder", "optimiser", "data")


def blocks() -> dict[str, Callable[[], str]]:
    """Content by marker."""
    facts = json.loads((ROOT / "results" / "benchmark.json").read_text())
    resolutions = facts["resolutions"]
    return {
        "conditions": lambda: conditions(facts) + "\n",
        "costs": lambda: as_table(costs(resolutions)) + "\n",
        "profile": lambda: as_table(stage_shares(resolutions)) + "\n",
        "module": lambda: module(resolutions) + "\n",
        "quality": quality,
    }


def quality() -> str:
    """The table that `runs/experiments/time_to_quality.py` prints."""
    command = [sys.executable, ROOT / "runs" / "experiments" / "time_to_quality.py", *sys.argv[1:]]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return (
        table.strip()
        .replace("least to most", "fastest to slowest")
        .replace("| never to never |", "| never |")
        + "\n"
    )


def conditions(facts: dict) -> str:
    machine, peaks = facts["machine"], facts["peaks"]
    return (
        f"`results/benchmark.json`: {machine['processor']}, {machine['threads']} thread, torch "
        f"{machine['torch']}, commit {machine['commit']}, on a loaded machine. Large matrix products run at "
        f"{peaks['float32'] / 1e9:.0f} Gflop/s in float32 and {peaks['bfloat16'] / 1e9:.1f} in bfloat16, "
        f"a copy at {peaks['copy'] / 1e9:.1f} GB/s."
    )


def costs(resolutions: dict) -> list[list[str]]:
    """Milliseconds of each implementation, and its ratio to the reference implementation."""
    head = [
        "pixels",
        "what",
        "batch",
        "reference ms",
        "exact ms",
        "ratio (quartiles)",
        "fast ms",
        "ratio (quartiles)",
    ]
    lines = [head, ["---"] * len(head)]
    for side, facts in resolutions.items():
        kinds = [("training step", facts["training_step"])]
        kinds += [("inference", kind) for kind in facts["inference"].values()]
        for what, kind in kinds:
            literal = kind["literal"]
            cells = [*timed(kind["exact"]), *timed(kind["fast"])]
            lines.append([side, what, str(literal["batch_size"]), timed(literal)[0], *cells])
        own = facts["training_step"].get("fast, its own batch")
        if own:
            what = "training step, fast with its own batch size"
            lines.append([side, what, str(own["batch_size"]), "", "", "", *timed(own)])
    return lines


def timed(row: dict) -> tuple[str, str]:
    """Median milliseconds, and the ratio with its quartiles."""
    median, ratio = row["cpu_ms_per_picture"]["median"], row["ratio"]
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f}", f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"


def stage_shares(resolutions: dict) -> list[list[str]]:
    """Profile of a training step by stage, and its time over the roofline."""
    head = ["pixels", "step of", "Gflop/s", "times roofline", "peak memory, MB", *ROOMS]
    lines = [head, ["---"] * len(head)]
    for side, facts in resolutions.items():
        for name, title in (("literal", "reference"), ("exact", "exact"), ("fast", "fast")):
            step, shares = facts["training_step"][name], facts["stage_shares"].get(name)
            rate = f"{step['floor']['operations_per_second'] / 1e9:.0f}"
            cells = (
                [f"{100 * shares[room]['share']:.0f} %" for room in ROOMS] if shares else [""] * len(ROOMS)
            )
            memory = f"{step['peak_bytes'] / 1e6:.0f}"
            lines.append([side, title, rate, f"{step['floor']['times_floor']:.2f}", memory, *cells])
    return lines


def module(resolutions: dict) -> str:
    ratios = [
        f"{facts['module']['objecthood']['ratio']['median']:.2f} at {side} pixels"
        for side, facts in resolutions.items()
        if "objecthood" in facts["module"]
    ]
    against = "`SlotAttention` alone, forward and backward, against `slot-attention` (lucidrains)"
    return f"{against}, ratio of CPU seconds: {', '.join(ratios)}."


def as_table(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
