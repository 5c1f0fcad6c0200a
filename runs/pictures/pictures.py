"""Draw the images of README.md from a trained model: docs/images/slots.png and docs/images/attention.webp.

python runs/pictures/pictures.py runs/sprites-coloured-seed0 --scene 11
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

import objecthood as oh
from objecthood.visualize import animation, figures

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run folder of a discovery recipe")
    parser.add_argument("--scene", type=int, default=0, help="test scene whose attention is animated")
    parser.add_argument("--rows", type=int, default=5, help="test scenes shown slot by slot")
    arguments = parser.parse_args()
    model = oh.load(arguments.run / "weights.safetensors")
    dataset = model.recipe.dataset("test")
    IMAGES.mkdir(parents=True, exist_ok=True)

    images = dataset[range(arguments.rows)]["image"]
    scene = model.recipe.discover(model, images, torch.arange(len(images)))
    figure = figures.slots_figure(images, scene.reconstruction, scene.masks, scene.appearance)
    figure.save(IMAGES / "slots.png", optimize=True)

    images = dataset[[arguments.scene]]["image"]
    scene = model.recipe.discover(model, images, torch.tensor([arguments.scene]))
    frames = animation.attention_frames(images[0], scene.attention[0])
    animation.save_animation(frames, IMAGES / "attention.webp")


if __name__ == "__main__":
    main()
