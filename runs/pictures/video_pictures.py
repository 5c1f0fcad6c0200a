"""Draw the animations of docs/video.md from trained video models: docs/images/NAME.webp.

python runs/pictures/video_pictures.py runs/moving-sprites-seed1 runs/camouflage-seed0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import objecthood as oh
from objecthood.visualize.animation import save_animation

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of video recipes")
    for run in parser.parse_args().runs:
        model = oh.load(run / "weights.safetensors")
        frames = model.recipe.figures(model, {})["clips-animated"]
        save_animation(frames, IMAGES / f"{model.recipe.name}.webp", milliseconds=150)


if __name__ == "__main__":
    main()
