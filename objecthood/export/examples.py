"""Images that a model is at home with, wherever they can be had without a download.

For trying a model: what an exported graph is compared on, and what the demo shows first.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch import Tensor

from objecthood.data.clevr_render.clevr_like import ClevrLike
from objecthood.data.generated.sprites import Sprites
from objecthood.data.generated.tetrominoes import Tetrominoes

RENDERED = "clevr-like"


def example_images(
    model: Any, number: int, resolution: int | None = None
) -> Float[Tensor, "number 3 height width"]:
    """The first test images of the data that `model.recipe` names, in [0, 1].

    Generated here, or of the rendered scenes that come with the package (at most 100 or so); of any other
    data, and for a model without a recipe, sprites take their place.

    Args:
        resolution: side in pixels; what the model sees unless given. Tetrominoes have but one.

    Example:
        >>> from objecthood.models import autoencoder
        >>> example_images(autoencoder.fast_sprites(), 4).shape
        torch.Size([4, 3, 64, 64])
    """
    recipe: Any = getattr(model, "recipe", None)
    side = resolution or model.resolution
    data = getattr(recipe, "data", "")
    if data == RENDERED:
        scenes: Any = ClevrLike(resolution=side, objects=(recipe.min_objects, recipe.max_objects))
    elif data == "tetrominoes":
        scenes = Tetrominoes("test")
    else:
        scenes = Sprites("test", background=getattr(recipe, "background", "grey"), resolution=side)
    return scenes[range(number)]["image"]
