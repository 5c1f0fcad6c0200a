"""Output of `objecthood evaluate --diagnose`: a table of indicators, findings, and the pages that explain
them."""

from __future__ import annotations

import typing
from pathlib import Path

from objecthood.runtime.files import staged

if typing.TYPE_CHECKING:
    from rich.console import Console

    from objecthood.analysis.diagnosis import Diagnosis

WORDS = {
    "num_slots": "slots",
    "used_slots": "slots used, mean over images",
    "objects": "objects, mean over images",
    "attention_entropy": "normalised entropy of the last attention, 0 to 1",
    "shared_objects": "objects that share a slot with another",
    "split_objects": "objects split over several slots",
    "objects_in_background": "objects in the background slot",
    "background_slots": "background slots, mean over images",
    "background_split": "images with a split background",
    "error_ratio": "ratio of errors at consecutive iterations (1: converged)",
}
"""Label of each summary key, in table order."""
PERCENT = ("shared_objects", "split_objects", "objects_in_background", "background_split")


def print_diagnosis(diagnosis: Diagnosis, console: Console, figure: str = "") -> None:
    """Print indicators and findings, and draw the worst scenes into `figure` if named."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    for name, words in WORDS.items():
        if name in diagnosis.summary:
            table.add_row(in_units(name, diagnosis.summary[name]), words)
    console.print()
    console.print(table)
    for finding in diagnosis.findings:
        console.print(f"- {finding.text}; see {finding.page}", soft_wrap=True)
    if not diagnosis.findings:
        console.print("no problems found")
    console.print(f"worst scenes: {', '.join(map(str, diagnosis.worst[:5]))}", soft_wrap=True)
    if figure:
        with staged(Path(figure)) as file:
            diagnosis.figure().save(file)
        console.print(f"drawn in {figure}", soft_wrap=True)


def in_units(name: str, value: float) -> str:
    """Format a summary value: shares in percent, counts with one decimal.

    >>> in_units("shared_objects", 0.25), in_units("used_slots", 3.04), in_units("num_slots", 6.0)
    ('25 %', '3.0', '6')
    """
    if name in PERCENT:
        return f"{100 * value:.0f} %"
    return (
        f"{value:.0f}"
        if name == "num_slots"
        else f"{value:.2f}"
        if name in ("attention_entropy", "error_ratio")
        else f"{value:.1f}"
    )
