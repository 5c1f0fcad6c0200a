"""Visualisation: figures of slots and attention, animations, video figures, curves."""

from objecthood.visualize.figures import (
    attention_figure,
    indexed_png,
    masks_figure,
    name_objects,
    overlay,
    slot_colors,
    slots_figure,
    to_image,
    write,
)

__all__ = [
    "attention_figure",
    "indexed_png",
    "masks_figure",
    "name_objects",
    "overlay",
    "slot_colors",
    "slots_figure",
    "to_image",
    "write",
]
