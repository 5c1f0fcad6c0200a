"""The table of docs/ablations.md, from results/ablation-*.json; `runs/pages/tables.py` writes it."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from floors_page import floor_rows
from published import spread

ROOT = Path(__file__).resolve().parents[2]
ROWS = {
    "base": "base: slot attention as in the paper",
    "no-gru": "no GRU",
    "no-mlp": "no MLP",
    "no-input-norm": "no layer norm of inputs",
    "no-slot-norm": "no layer norm of slots",
    "softmax-over-inputs": "softmax over inputs",
    "weighted-sum": "weighted sum",
    "no-positions": "encoder without positions",
    "unconditioned-masks": "masks not conditioned on attention",
    "slot-mlp": "Slot MLP",
}
SCORES = {"fg_ari": "FG-ARI", "ari": "ARI", "mbo": "mBO"}


def ablations(results: Path = ROOT / "results") -> str:
    """Every row that was trained, mean and sample deviation over its seeds, then the floors."""
    head = ["", "seeds", *SCORES.values(), "MSE", "CPU s"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for row, title in ROWS.items():
        runs = [json.loads(file.read_text()) for file in sorted(results.glob(f"ablation-{row}-seed*.json"))]
        if runs:
            scores = [spread([run["scores"][key] for run in runs]) for key in SCORES]
            error = spread([run["scores"]["mse"] for run in runs], digits=4)
            cost = f"{statistics.median(run['cpu_seconds'] for run in runs):.0f}"
            rows.append([title, str(len(runs)), *scores, error, cost])
    floors = [[*cells, "-", "-"] for cells in floor_rows("clevr6-ablation", list(SCORES), results)]
    floors = [[cells[0], "-", *cells[1:]] for cells in floors]
    return "".join("| " + " | ".join(row) + " |\n" for row in [*rows, *floors])
