"""What `objecthood evaluate --diagnose` says beside the scores: a table of signs, and where to read on."""

from __future__ import annotations

import typing
from pathlib import Path

if typing.TYPE_CHECKING:
    from rich.console import Console

    from objecthood.analysis.diagnosis import Diagnosis

WORDS = {
    "num_slots": "slots",
    "used_slots": "slots used, mean over images",
    "objects": "objects, mean over images",
    "attention_entropy": "entropy of the last attention, 0 sure to 1 undecided",
    "shared_objects": "objects that share a slot with another",
    "split_objects": "objects in pieces",
    "objects_in_background": "objects in the background's slot",
    "background_slots": "slots that hold the background, mean over images",
    "background_split": "images with a divided background",
    "swing": "larger error over smaller, after two neighbouring numbers of iterations",
}
"""What each key of a summary means, in the order of the table."""
PERCENT = ("shared_objects", "split_objects", "objects_in_background", "background_split")


def print_diagnosis(diagnosis: Diagnosis, console: Console, figure: str = "") -> None:
    """The signs as a table, what stands out, and the image of the worst scenes if a file is named."""
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
        console.print("nothing stands out")
    console.print(f"worst scenes: {', '.join(map(str, diagnosis.worst[:5]))}", soft_wrap=True)
    if figure:
        diagnosis.figure().save(Path(figure))
        console.print(f"drawn in {figure}", soft_wrap=True)


def in_units(name: str, value: float) -> str:
    """A value of a summary as it is shown: shares in percent, counts with one digit.

    >>> in_units("shared_objects", 0.25), in_units("used_slots", 3.04), in_units("num_slots", 6.0)
    ('25 %', '3.0', '6')
    """
    if name in PERCENT:
        return f"{100 * value:.0f} %"
    return (
        f"{value:.0f}"
        if name == "num_slots"
        else f"{value:.2f}"
        if name in ("attention_entropy", "swing")
        else f"{value:.1f}"
    )
