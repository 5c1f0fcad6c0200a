"""The table of docs/methods/center-votes.md: what divides rendered scenes with patterned surfaces."""

from __future__ import annotations

import statistics

from published import as_table, read, runs_of, spread

SCORES = ("fg_ari", "ari", "mbo")


def found() -> str:
    """Floors, frozen features, and trained models."""
    head = ["", "scenes", "FG-ARI", "ARI", "mBO", "CPU ms per image", "training, CPU s"]
    rows = []
    for name, row in read("textured.json")["rows"].items():
        title = row["title"].replace(" (`photos`)", " of frozen features (`photos`)")
        cells = [f"{row[score]:.3f}" for score in SCORES]
        # The merge alone costs nothing: its masks are those of the row before.
        milliseconds = "-" if name == "consensus_merged" else f"{1000 * row['cpu_seconds']:.0f}"
        rows.append([title, str(row["scenes"]), *cells, milliseconds, "-"])
    slots = runs_of("clevr6-textured")
    cost = f"{statistics.median(run['cpu_seconds'] for run in slots):.0f}"
    cells = [spread([run["scores"][f"{score}_best_of_8"] for run in slots]) for score in SCORES]
    rows.append([f"slots (`clevr6-like`), best of 8 restarts, {len(slots)} seeds", "320", *cells, "-", cost])
    merged = [
        row["scores"]
        for row in read("clevr-like-scenes.json")["rows"]
        if (row["weights"], row["scenes"]) == ("textured", "textured") and row["one_ground"]
    ]
    cells = [spread([scores[score] for scores in merged]) for score in SCORES]
    rows.append(["the same, merged background", "320", *cells, "-", cost])
    votes = runs_of("center-votes")
    cost = f"{statistics.median(run['cpu_seconds'] for run in votes):.0f}"
    cells = [spread([run["scores"][score] for run in votes]) for score in SCORES]
    title = f"**votes for centres** (`center-votes`), {len(votes)} seeds"
    rows.append([title, "320", *cells, "-", cost])
    return as_table(head, rows)
