"""In-distribution example images of a model, available without a download: for export checks and the demo."""

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

    They are generated, or taken from the bundled rendered scenes (about 100). Sprites replace any other data,
    and serve models without a recipe.

    Args:
        number: of images.
        resolution: side in pixels, the model's by default. Tetrominoes ignore it.

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
