"""Write the tables of docs/speed.md from results/benchmark.json and the curves of results/*-seed*.json.

python runs/speed_page.py            (--check: say by the exit code whether the page is up to date)
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("encoder", "slot attention", "decoder", "optimiser", "data")


def main() -> int:
    page = ROOT / "docs" / "speed.md"
    before = page.read_text()
    facts = json.loads((ROOT / "results" / "benchmark.json").read_text())
    command = [sys.executable, ROOT / "runs" / "time_to_quality.py", *sys.argv[1:]]
    blocks = {
        "conditions": conditions(facts),
        "costs": as_table(costs(facts["resolutions"])),
        "rooms": as_table(rooms(facts["resolutions"])),
        "module": module(facts["resolutions"]),
        "quality": subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip(),
    }
    after = before
    for name, lines in blocks.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        after = block.sub(lambda match, lines=lines: match[1] + lines + match[2], after)
    if "--check" in sys.argv[1:]:
        return int(after != before)
    page.write_text(after)
    return 0


def conditions(facts: dict) -> str:
    machine, peaks = facts["machine"], facts["peaks"]
    return (
        f"`results/benchmark.json`: {machine['processor']}, {machine['threads']} thread, torch "
        f"{machine['torch']}, commit {machine['commit']}, on a loaded machine. A large product runs at "
        f"{peaks['float32'] / 1e9:.0f} Gflop/s in float32 and {peaks['bfloat16'] / 1e9:.1f} in bfloat16, "
        f"a copy at {peaks['copy'] / 1e9:.1f} GB/s."
    )


def costs(resolutions: dict) -> list[list[str]]:
    """Milliseconds of each contestant, and its ratio to the literal model."""
    head = [
        "pixels",
        "what",
        "batch",
        "literal ms",
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
            what = "training step, fast with its own batch"
            lines.append([side, what, str(own["batch_size"]), "", "", "", *timed(own)])
    return lines


def timed(row: dict) -> tuple[str, str]:
    """Median milliseconds, and the ratio with its quartiles."""
    median, ratio = row["cpu_ms_per_picture"]["median"], row["ratio"]
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    return f"{median:.{digits}f}", f"{ratio['median']:.3f} ({ratio['low']:.3f}-{ratio['high']:.3f})"


def rooms(resolutions: dict) -> list[list[str]]:
    """How near to the floor a training step is, what it takes, and where its time goes."""
    head = ["pixels", "step of", "Gflop/s", "times floor", "peak memory, MB", *ROOMS]
    lines = [head, ["---"] * len(head)]
    for side, facts in resolutions.items():
        for name in ("literal", "exact", "fast"):
            step, shares = facts["training_step"][name], facts["rooms"].get(name)
            rate = f"{step['floor']['operations_per_second'] / 1e9:.0f}"
            cells = (
                [f"{100 * shares[room]['share']:.0f} %" for room in ROOMS] if shares else [""] * len(ROOMS)
            )
            memory = f"{step['peak_bytes'] / 1e6:.0f}"
            lines.append([side, name, rate, f"{step['floor']['times_floor']:.2f}", memory, *cells])
    return lines


def module(resolutions: dict) -> str:
    ratios = [
        f"{facts['module']['objecthood']['ratio']['median']:.2f} at {side} pixels"
        for side, facts in resolutions.items()
        if "objecthood" in facts["module"]
    ]
    against = "`SlotAttention` alone, forward and backward, beside `slot-attention` (lucidrains)"
    return f"{against}, ratio of CPU seconds: {', '.join(ratios)}."


def as_table(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
