"""Write the tables of README.md from results/*.json, between the markers `<!-- results -->` and `<!--
/results -->`.

    python runs/tables.py            # rewrite
    python runs/tables.py --check    # exit 1 if README.md is not what the results say
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FAILED = 0.9
"""A seed whose foreground ARI ends below this has failed; such seeds count in every mean."""
_BLOCK = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
_COLUMNS = ("fg_ari", "ari", "mbo", "miou")
_TITLES = ("foreground ARI", "ARI", "mean best overlap", "mean IoU")


def main() -> int:
    readme = ROOT / "README.md"
    before = readme.read_text()
    after = _BLOCK.sub(lambda match: match[1] + tables() + match[2], before)
    if "--check" in sys.argv[1:]:
        return int(after != before)
    readme.write_text(after)
    return 0


def tables() -> str:
    """The table of all multi-seed results, then how each score was taken."""
    runs: dict[str, list[dict]] = {}
    for file in sorted((ROOT / "results").glob("*-seed*.json")):
        result = json.loads(file.read_text())
        if "fg_ari" not in result["scores"]:  # set prediction has its own page, docs/set-prediction.md
            continue
        runs.setdefault(file.stem.rsplit("-seed", 1)[0], []).append(result)
    head = ["recipe", *_TITLES, "worst seed", f"seeds (below {FAILED})", "CPU s", "wall s"]
    rows = [row(name, results) for name, results in runs.items()]
    lines = ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]
    notes = [f"- `{name}`: {taken(results[0])}. Commit {commits(results)}." for name, results in runs.items()]
    return "\n".join([*lines, "", *notes, "", *fresh(), "", *generalisation(), ""])


def fresh() -> list[str]:
    """The same weights on scenes that guided no choice: mean and deviation over seeds, and the worst."""
    lines = ["Test scenes 1,000 to 1,319, on which no choice was made, with the same weights:", ""]
    for file in sorted((ROOT / "results").glob("*-fresh.json")):
        scores = list(json.loads(file.read_text())["scores"].values())
        means = [
            f"{title} {spread([score[column] for score in scores])}"
            for column, title in zip(_COLUMNS[:3], _TITLES, strict=False)
        ]
        worst = min(score["fg_ari"] for score in scores)
        lines.append(f"- `{file.stem.removesuffix('-fresh')}`: {', '.join(means)}; worst seed {worst:.3f}.")
    return lines


def generalisation() -> list[str]:
    """What models make of more objects than they saw, without training: means over seeds."""
    lines = []
    for file in sorted((ROOT / "results").glob("*-generalisation.json")):
        rows = json.loads(file.read_text())["rows"]
        seeds = len({row["seed"] for row in rows})
        lines += [
            f"`{file.stem.removesuffix('-generalisation')}`, {seeds} seeds, on more objects than it saw:",
            "",
        ]
        lines += [
            "| test iterations | "
            + " | ".join(sorted({str(row["iterations"]) for row in rows}, key=int))
            + " |"
        ]
        lines += ["|" + " --- |" * (lines[-1].count("|") - 1)]
        for key, words in (("as_trained", "3 to 6 objects, 7 slots"), ("more", "7 to 10 objects, 11 slots")):
            for score, title in (("fg_ari", "foreground ARI"), ("ari", "ARI"), ("mbo", "mean best overlap")):
                by_iterations: dict[int, list[float]] = {}
                for row in rows:
                    by_iterations.setdefault(row["iterations"], []).append(row[key][score])
                means = [f"{statistics.mean(by_iterations[number]):.3f}" for number in sorted(by_iterations)]
                lines += ["| " + " | ".join([f"{title}, {words}", *means]) + " |"]
    return lines


def row(name: str, results: list[dict]) -> list[str]:
    """Mean and deviation over seeds of each score; median costs of training."""
    scores = {column: [result["scores"][column] for result in results] for column in _COLUMNS}
    failed = sum(score < FAILED for score in scores["fg_ari"])
    costs = [
        f"{statistics.median(result[key] for result in results):.0f}"
        for key in ("cpu_seconds", "wall_seconds")
    ]
    means = [spread(scores[column]) for column in _COLUMNS]
    return [f"`{name}`", *means, f"{min(scores['fg_ari']):.3f}", f"{len(results)} ({failed})", *costs]


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {deviation:.3f}"


def taken(result: dict) -> str:
    """The part of the protocol that differs between recipes; what each score is stands in README.md."""
    return result["protocol"].split(";")[0]


def commits(results: list[dict]) -> str:
    return ", ".join(sorted({result["machine"]["commit"].rstrip("+") or "unknown" for result in results}))


if __name__ == "__main__":
    sys.exit(main())
