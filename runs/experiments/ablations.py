"""Train the rows of docs/ablations.md: results/ablation-ROW-seedS.json.

    python runs/experiments/ablations.py --data-path FOLDER                    # every row, seeds 0 to 4
    python runs/experiments/ablations.py --data-path FOLDER --rows base no-gru --seeds 0

FOLDER holds scenes of `objecthood data render clevr --objects 3-10`, splits "train", "validation" and "test".
As with seeds.py, a seed whose JSON exists is skipped, and a run that was stopped resumes from its checkpoint.
All rows of a seed are trained before the next seed begins.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing

import seeds

import objecthood as oh
from objecthood.recipes.ablations import Change

ROWS = ["base", *(change for change in typing.get_args(Change) if change != "none")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--data-path", required=True, help="folder of rendered CLEVR-like scenes")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for row in arguments.rows:
            seeds.publish(recipe(row, seed, arguments.data_path), f"ablation-{row}-seed{seed}")


def recipe(row: str, seed: int, data_path: str) -> oh.recipes.Recipe:
    """The recipe of a row, with its seed and data."""
    return dataclasses.replace(
        oh.RECIPES["clevr6-ablation"],
        ablation="none" if row == "base" else row,
        seed=seed,
        data_path=data_path,
    )


if __name__ == "__main__":
    main()
