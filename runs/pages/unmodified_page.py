"""The tables of docs/methods/unmodified.md: seeds, speed, other settings and what mattered."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from published import as_table, by_recipe, read


def blocks() -> dict[str, Callable[[], str]]:
    """Content by marker."""
    return {
        "seeds": seeds,
        "speed": speed,
        "settings": settings,
        "forks": forks,
        "starts": starts,
        "share": position_share,
        "warm-up": warm_up,
    }


def seeds() -> str:
    """A row for every seed of the unmodified model; seconds to FG-ARI 0.8 are of validation scenes."""
    tests, rows = read("unmodified-tests.json"), []
    later = {
        (row["steps"], row["seed"]): f"{row['scores']['fg_ari']:.3f}"
        for row in tests["rows"] + tests["short"]
        if (row["pieces"], row["slots"], row["iterations"]) == (3, 4, 5)
    }
    for name in ("tetrominoes-unmodified", "tetrominoes-unmodified-hour"):
        for result in by_recipe().get(name, []):
            scores = [f"{result['scores'][column]:.3f}" for column in ("fg_ari", "ari", "mbo", "mse")]
            seconds = [point["cpu_seconds"] for point in result["curve"] if point["fg_ari"] >= 0.8]
            first = f"{min(seconds):.0f}" if seconds else "never"
            steps, seed = result["settings"]["steps"], result["seed"]
            five = later.get((steps, seed), "-")
            cost = f"{result['cpu_seconds']:.0f}"
            rows.append([f"{steps:,}", str(seed), scores[0], five, *scores[1:], first, cost])
    head = ["steps", "seed", "FG-ARI", "FG-ARI, 5 iterations", "ARI", "mBO", "MSE"]
    head += ["CPU s to FG-ARI 0.8", "CPU s"]
    return as_table(head, rows)


def speed() -> str:
    """CPU seconds to scores of validation scenes, by the paper's recipe and by ours, on one machine."""
    paper, ours = read("paper-curve.json")["curves"]
    last = paper["points"][-1]
    rows = []
    for score in (0.1, 0.3, 0.5, 0.7, 0.8, 0.9):
        slow, fast = (first_seconds(curve["points"], score) for curve in (paper, ours))
        assert fast, f"`tetrominoes-unmodified` has not reached {score}"
        least = (slow or last["cpu_seconds"]) / fast
        reached = [f"{slow:,.0f}", f"{least:.0f}"] if slow else ["not yet", f"more than {int(least)}"]
        rows.append([f"{score:.1f}", reached[0], f"{fast:.0f}", reached[1]])
    head = ["FG-ARI", "CPU s, the paper's recipe", "CPU s, `tetrominoes-unmodified`", "times faster"]
    table = as_table(head, rows)
    floors = {name: read("floors.json")["tetrominoes"][name]["fg_ari"] for name in ("components", "blocks")}
    steps = f"{last['step']:,} steps of {paper['settings']['batch_size']} images"
    moved = ""
    if "measured_to" in paper:
        moved = (
            f"Its steps after {paper['measured_to']:,}, and the run of `tetrominoes-unmodified`, were "
            "computed on a faster machine, partly in bfloat16; a step counts with its CPU seconds on the "
            "slower one. "
        )
    return (
        f"{table}\nThe paper's recipe has run for {last['cpu_seconds']:,.0f} CPU s so far ({steps}). Its "
        f"FG-ARI is {last['fg_ari']:.3f}. {moved}Without learning, on test scenes, colour components have "
        f"{floors['components']:.3f} and equal blocks {floors['blocks']:.3f}.\n"
    )


def first_seconds(points: list[dict], score: float) -> float | None:
    """CPU seconds to the first evaluation with this FG-ARI; None if there was none."""
    return next((point["cpu_seconds"] for point in points if point["fg_ari"] >= score), None)


def settings() -> str:
    """FG-ARI of trained unmodified models, mean over seeds, by iterations and pieces, and by slots."""
    found = read("unmodified-tests.json")["rows"]
    cells = {
        (row["pieces"], row["slots"], row["iterations"]): statistics.mean(
            other["scores"]["fg_ari"]
            for other in found
            if all(other[key] == row[key] for key in ("pieces", "slots", "iterations"))
        )
        for row in found
    }
    iterations = sorted({row["iterations"] for row in found})
    head = ["test iterations", *(str(number) for number in iterations)]
    rows = [
        [f"{pieces} pieces, {pieces + 1} slots", *(f"{cells[pieces, pieces + 1, n]:.3f}" for n in iterations)]
        for pieces in sorted({row["pieces"] for row in found})
    ]
    floor = read("unmodified-tests.json")["components"]
    rows += [
        [f"floor: colour components, {pieces} pieces", f"{score:.3f}", *["-"] * (len(iterations) - 1)]
        for pieces, score in floor.items()
    ]
    slots = sorted(slots for pieces, slots, n in cells if (pieces, n) == (3, 3))
    number = [["3 pieces, 3 iterations", *(f"{cells[3, slot, 3]:.3f}" for slot in slots)]]
    verdict = (
        f"With five iterations, the models reach {cells[3, 4, 5]:.3f} on three pieces; components of one "
        f"colour reach {floor['3']:.3f}.\n"
    )
    return "\n".join(
        [as_table(head, rows), as_table(["slots", *(str(slot) for slot in slots)], number), verdict]
    )


def forks() -> str:
    """What a trained model reaches with more training of several kinds."""
    rows = read("unmodified-forks.json")["rows"]
    begun = rows[0]["points"][0]
    table = [["before", "-", "0", *_shown(begun)]]
    for row in rows:
        last = row["points"][-1]
        batch = f"the {row['batch']} hardest of {row['of']}" if row["of"] else f"{row['batch']}"
        table.append([batch, f"{row['clip']:g}", f"{last['step']:,}", *_shown(last)])
    head = ["batch", "clipped at", "steps", "FG-ARI", "MSE", "FG-ARI, 5 iterations", "MSE, 5 iterations"]
    return as_table(head, table)


def _shown(point: dict) -> list[str]:
    """Scores of a point in text."""
    return [
        f"{point[f'{name}_{iterations}']:.{digits}f}"
        for iterations in (3, 5)
        for name, digits in (("fg_ari", 3), ("mse", 4))
    ]


def starts() -> str:
    """How often the unmodified model fails with all initial slots, and with some."""
    three, five = read("unmodified-tests.json")["starts"]
    return (
        f"Over {three['starts']} draws of the initial slots, {three['all']} of {three['scenes']} validation "
        f"scenes fail (FG-ARI below 0.9) with every draw and {three['some']} with some; with five test "
        f"iterations, {five['all']} and {five['some']}.\n"
    )


def position_share() -> str:
    """How much of the untrained encoder's features is position, in a sentence."""
    found = read("position-share.json")
    glorot, he = (100 * statistics.mean(found["share"]["35"][name]) for name in ("glorot", "he"))
    return (
        f"Position makes up {glorot:.0f} % of the variance of the untrained encoder's features with the "
        f"paper's initialisation, and {he:.0f} % with He initialisation (mean of {len(found['seeds'])} "
        f"seeds, commit {found['machine']['commit']}).\n"
    )


def warm_up() -> str:
    """FG-ARI of validation scenes after 1,500 steps by the precision of the warm-up, a row for each seed; how
    the run that went on, on strips, ended."""
    points = [
        point | {"seed": row["seed"], "precision": row["precision"]}
        for row in read("warm-up-precision.json")["rows"]
        for point in row["points"]
    ]
    found = {(point["seed"], point["precision"]): point for point in points if point["step"] == 1500}
    rows = []
    for seed in sorted({seed for seed, _ in found}):
        pair = [found[seed, precision] for precision in ("bfloat16", "float32")]
        scores = [f"{point['fg_ari']:.3f}" for point in pair]
        rows.append([str(seed), *scores, *(f"{point['cpu_seconds']:.0f}" for point in pair)])
    head = ["seed", "FG-ARI, bfloat16", "FG-ARI, float32", "CPU s, bfloat16", "CPU s, float32"]
    last = max(points, key=lambda point: point["step"])
    what = f"Seed {last['seed']} in {last['precision']}"
    end = f"{what} still had {last['fg_ari']:.3f} after {last['step']:,} steps."
    return f"{as_table(head, rows)}\n{end}\n"
