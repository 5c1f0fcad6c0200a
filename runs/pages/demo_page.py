"""The tables of docs/demo.md: times of the static page in a browser, from results/demo.json."""

from __future__ import annotations

from collections.abc import Callable

from published import as_table, read

QUANTILES = {"least": "minimum", "tenth": "10 %", "median": "median", "nine tenths": "90 %"}


def slots() -> str:
    """Milliseconds of an image of slots."""
    facts = read("demo.json")
    shown = ("visit", "threads", "resolution", "slots", "iterations")
    rows = [
        [f"`{name}`", *(str(row[key]) for key in shown)]
        + [f"{row['wall'][key]:.0f}" for key in QUANTILES]
        + [f"{row['processor']:.0f}"]
        for name, measured_so in facts["models"].items()
        for row in measured_so
    ]
    head = ["model", "visit", "threads", "pixels", *shown[3:], *QUANTILES.values(), "CPU"]
    return f"{measured(facts)}.\n\n" + as_table(head, rows)


def photographs() -> str:
    """Seconds of a photograph."""
    facts = read("demo.json")["photographs"]
    rows = [[what, f"{row['cpu']:.2f}", f"{row['wall']:.2f}"] for what, row in facts["seconds"].items()]
    return (
        as_table(["a photograph on one thread, in seconds", "CPU", "wall"], rows)
        + f"\n{measured(facts)}. Protocol: {facts['protocol']}.\n\n"
        + with_cuts(facts["paired"])
    )


def with_cuts(facts: dict) -> str:
    """How much faster the page has become, and what takes the rest."""
    before, now = facts["seconds"]["first, wall"]
    phases = facts["phases of the first, wall ms"]
    share = phases["onnxruntime-web compiled, and divide.onnx loaded"] / sum(phases.values())
    return (
        "The page used cuts of 20 x 20 cells before; in alternating visits to both, the first photograph "
        f"takes {now:.2f} instead of {before:.2f} s, {100 * (1 - now / before):.0f} % less. In a visit by "
        f"steps, {100 * share:.0f} % of that time went into onnxruntime-web, which the browser compiles.\n"
    )


def live() -> str:
    """Milliseconds of a frame of the page of live images."""
    facts = read("demo.json")["live"]
    rows = [
        [
            row["visit"],
            str(row["threads"]),
            *(str(row["wall"][key]) for key in QUANTILES),
            str(row["processor"]),
            f"{1000 / row['wall']['median']:.1f}",
        ]
        for row in facts["milliseconds"]
    ]
    head = ["visit", "threads", *QUANTILES.values(), "CPU", "frames a second (median)"]
    return as_table(head, rows) + f"\n{measured(facts)}. Protocol: {facts['protocol']}.\n"


def measured(facts: dict) -> str:
    """Browser, machine and commit of a measurement."""
    here = facts["environment"]
    return (
        f"{here['browser']}, wasm with SIMD; {here['processor']}, {here['cores']} cores, load "
        f"{facts['load']:.1f}; commit {here['commit']}"
    )


def blocks() -> dict[str, Callable[[], str]]:
    """Content by marker."""
    return {"photographs": photographs, "live": live, "costs": slots}
