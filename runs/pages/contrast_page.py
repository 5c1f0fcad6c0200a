"""The tables of docs/methods/contrast.md, from results/contrast-*.json.

`runs/pages/tables.py` writes them.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from floors_page import floor_rows

ROOT = Path(__file__).resolve().parents[2]
SAME_MODEL = {
    "nearest": "set contrast, nearest slots",
    "set": "set contrast, mean of the set",
    "single": "single-slot contrast",
    "same-model-reconstruction": "reconstruction",
    "untrained": "untrained",
}
VIDEO_MODEL = {
    "reconstruction": "reconstruction",
    "reconstruction-slots": "reconstruction + slot-slot contrast",
}
DATA = {
    "clean": "moving sprites",
    "textured": "moving sprites, textured background",
    "camouflage": "random-dot motion",
}
COLLAPSED = 0.3
"""Attention FG-ARI below which a run counts as collapsed."""
FOUND = {
    "attention FG-ARI": ("attention_fg_ari",),
    "attention ARI": ("attention_ari",),
    "decoder FG-ARI": ("decoder_fg_ari", "frame_fg_ari"),
    "video FG-ARI": ("video_fg_ari",),
    "video ARI": ("video_ari",),
    "ID switches": ("id_switch_rate",),
}
KNOWN = {
    "position R2": ("position_r2",),
    "colour R2": ("colour_r2",),
    "kind accuracy": ("kind_accuracy",),
    "MSE": ("decoder_mse", "mse"),
}


SHORT = {
    "attention FG-ARI": ("attention_fg_ari",),
    "attention ARI": ("attention_ari",),
}


def summary() -> str:
    """Attention scores of every loss on every data set, and the best floor of each score."""
    head = ["", *(f"{title}: {name}" for title in DATA.values() for name in ("FG-ARI", "ARI"))]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    keys = [names[0] for names in SHORT.values()]
    for row, title in SAME_MODEL.items():
        cells = []
        for data in DATA:
            results = read(row, data)
            cells += [spread(results, names, data) if results else "-" for names in SHORT.values()]
        rows.append([title, *cells])
    best = []
    for data in DATA:
        floors = [scores for _, *scores in floor_rows(f"contrast-{data}", keys, without=("untrained",))]
        best += [max(scores, key=float) for scores in zip(*floors, strict=True)]
    rows.append(["best floor of each score", *best])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def found() -> str:
    """Scores and costs of one model under every loss, and untrained."""
    return table(SAME_MODEL, FOUND, costs=True)


def slots() -> str:
    """Scores and costs of the video model, with and without contrast of slots."""
    return table(VIDEO_MODEL, FOUND, costs=True)


def known() -> str:
    """Scores of probes of the slots."""
    return table(SAME_MODEL, KNOWN, costs=False)


def table(titles: dict[str, str], columns: dict[str, tuple[str, ...]], costs: bool) -> str:
    """Rows of every data set: mean and sample deviation over seeds; with `costs` collapses and CPU time."""
    more = ["collapsed", "CPU ms per step", "CPU s"] if costs else []
    rows = [["", "seeds", *columns, *more], ["---"] * (2 + len(columns) + len(more))]
    for data, data_title in DATA.items():
        if list((ROOT / "results").glob(f"contrast-*-{data}-seed*.json")):
            rows.append([f"**{data_title}**", *[""] * (len(rows[0]) - 1)])
        for row, title in titles.items():
            results = read(row, data)
            if not results:
                continue
            cells = [spread(results, keys, data) for keys in columns.values()]
            rows.append([title, str(len(results)), *cells, *(cost(results) if costs else [])])
        if costs:
            keys = [names[0] for names in columns.values()]
            without = ("untrained",) if titles is SAME_MODEL else ("untrained", "untrained_no_bias")
            for floor, *scores in floor_rows(f"contrast-{data}", keys, without=without):
                rows.append([floor, "-", *scores, "-", "-", "-"])
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def read(row: str, data: str) -> list[dict]:
    """The results of every seed."""
    files = sorted((ROOT / "results").glob(f"contrast-{row}-{data}-seed*.json"))
    return [json.loads(file.read_text()) for file in files]


def spread(results: list[dict], keys: tuple[str, ...], data: str) -> str:
    """Mean and deviation of the first of `keys` that the results have."""
    if data == "camouflage" and keys[0] == "colour_r2":
        return "-"  # all is noise
    scores = [result["scores"] | result.get("probes", {}) for result in results]
    key = next((key for key in keys if key in scores[0]), None)
    if key is None:
        return "-"
    values = [score[key] for score in scores]
    text = f"{statistics.mean(values):.3f}"
    return text + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def cost(results: list[dict]) -> list[str]:
    """How many collapsed; CPU time of a step and of a run, median over seeds."""
    collapsed = sum(result["scores"]["attention_fg_ari"] < COLLAPSED for result in results)
    seconds = statistics.median(result["cpu_seconds"] for result in results)
    step = 1000 * seconds / results[0]["settings"]["steps"]
    if results[0]["settings"]["steps"] == 1:
        return [f"{collapsed} of {len(results)}", "-", "-"]
    return [f"{collapsed} of {len(results)}", f"{step:.0f}", f"{seconds:.0f}"]
