"""Scores in words: display names, groups by number of restarts, means over seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

TITLES = {
    "fg_ari": "FG-ARI",
    "ari": "ARI",
    "mbo": "mBO",
    "miou": "mIoU",
    "mse": "MSE",
    "mbo_i": "mBO, instances",
    "mbo_c": "mBO, classes",
    "sc": "SC",
    "msc": "mSC",
    "pq": "PQ",
    "sq": "SQ",
    "rq": "RQ",
    "corloc": "CorLoc",
    "corloc_masks": "CorLoc of masks",
    "object_recovery": "object recovery",
    "boundary_f": "F of boundaries",
    "id_switch_rate": "ID switch rate",
    "ap": "AP",
    **{f"ap_{distance}": f"AP within {distance}" for distance in ("1", "0.5", "0.25", "0.125")},
}
_BEST = re.compile(r"(.+)_best_of_(\d+)")


def title(name: str) -> str:
    """Display name of a score: the standard one, or the key with spaces.

    >>> title("fg_ari"), title("fg_ari_best_of_8"), title("video_fg_ari")
    ('FG-ARI', 'FG-ARI, best of 8', 'video FG-ARI')
    """
    best = _BEST.fullmatch(name)
    if best:
        return f"{title(best[1])}, best of {best[2]}"
    what, _, score = name.partition("_")
    if what in ("video", "frame", "attention"):
        return f"{what} {title(score)}"
    return TITLES.get(name, name.replace("_", " "))


def by_restarts(scores: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Scores grouped into one restart and best of several.

    >>> by_restarts({"ari": 0.8, "ari_best_of_8": 0.9})
    {'one restart': {'ari': 0.8}, 'best of 8': {'ari': 0.9}}
    """
    rows: dict[str, dict[str, Any]] = {}
    for name, value in scores.items():
        best = _BEST.fullmatch(name)
        row, short = (f"best of {best[2]}", best[1]) if best else ("one restart", name)
        rows.setdefault(row, {})[short] = value
    return rows


def mean_and_deviation(numbers: Mapping[str, Any] | None, digits: int) -> str:
    """Mean and standard deviation over seeds, or "-".

    >>> mean_and_deviation({"mean": 0.5, "deviation": 0.25}, 1), mean_and_deviation(None, 1)
    ('0.5 ± 0.2', '-')
    """
    if numbers is None or numbers["mean"] is None:
        return "-"
    deviation = "" if numbers["deviation"] is None else f" ± {numbers['deviation']:.{digits}f}"
    return f"{numbers['mean']:.{digits}f}{deviation}"
