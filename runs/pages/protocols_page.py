"""The table of docs/metrics.md: published weights by the protocols of the literature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from objecthood.recipes.score_names import title

RESULTS = Path(__file__).resolve().parents[2] / "results"


def by_protocol() -> str:
    """A row for each score, a column for each of the weights: mean and standard error."""
    found = json.loads((RESULTS / "protocols.json").read_text())
    weights = found["weights"]
    lines = ["| protocol | score | " + " | ".join(f"`{name}`" for name in weights) + " |"]
    lines.append("| --- | --- |" + " ---: |" * len(weights))
    for protocol in found["protocols"]:
        for score in next(iter(weights.values()))["scores"][protocol]:
            cells = [in_words(facts["scores"][protocol][score]) for facts in weights.values()]
            lines.append(f"| `{protocol}` | {title(score)} | " + " | ".join(cells) + " |")
    scenes = {facts["test_scenes"] for facts in weights.values()}
    note = (
        f"Mean ± standard error over {', '.join(map(str, scenes))} test scenes, one restart, one seed. "
        f"{found['cpu_seconds']:.0f} CPU seconds, {found['machine']['processor']}, commit "
        f"{found['machine']['commit'].rstrip('+')}."
    )
    return "\n".join([*lines, "", note, ""])


def in_words(facts: dict[str, Any]) -> str:
    """Mean and standard error, or "-"."""
    return "-" if facts["mean"] is None else f"{facts['mean']:.3f} ± {facts['error']:.3f}"
