"""`fit`, `predict`, `transform` and `score` on arrays of images, following the conventions of scikit-learn.

It trains the recipe `folder` (images without labels). scikit-learn is not required.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int16, UInt8
from PIL import Image
from torch import Tensor

from objecthood import metrics
from objecthood.checkpoint.run import load
from objecthood.data.io.images import MAX_PIXELS
from objecthood.inference.predict import stream
from objecthood.recipes import RECIPES
from objecthood.runtime.environment import choose_device
from objecthood.train import train

Images = UInt8[np.ndarray, "images height width 3"] | Float[np.ndarray, "images height width 3"]


class ObjectFinder:
    """A discovery model trained on an array of images.

    Args:
        num_slots: largest number of objects per image, plus one for the background.
        resolution: side of the model's input in pixels; a multiple of 4.
        steps: of training, with 16 images each; 2,000 by default.
        seed: of weights and of the order of images.
        iterations: of Slot Attention after training.
        out: run folder to keep (curves, checkpoints, weights, report); not kept by default. It does not hold
            the images, so a stopped `fit` cannot be resumed.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Attributes:
        model_: after `fit`, the trained `SlotModel`.
        scores_: after `fit`, {"mse": ...}: mean squared error on held-out images, in [-1, 1] units.

    Example:
        >>> import numpy as np
        >>> images = np.random.default_rng(0).integers(0, 256, (20, 32, 48, 3), dtype=np.uint8)
        >>> finder = ObjectFinder(num_slots=3, resolution=16, steps=2).fit(images)  # doctest: +ELLIPSIS
        folder 2/2 ...
        >>> finder.predict(images[:4]).shape, finder.transform(images[:4]).shape
        ((4, 32, 48), (4, 3, 64))
    """

    def __init__(
        self,
        num_slots: int = 7,
        *,
        resolution: int = 64,
        steps: int | None = None,
        seed: int = 0,
        iterations: int = 7,
        out: str | Path | None = None,
        device: str = "auto",
    ):
        self.num_slots, self.resolution, self.steps, self.seed = num_slots, resolution, steps, seed
        self.iterations, self.out, self.device = iterations, out, device

    def fit(self, X: Images, y: object = None) -> ObjectFinder:
        """Train on images [images, height, width, 3], uint8 or float in [0, 1]; `y` is ignored.

        Raises ValueError for other arrays, invalid settings, or if `out` already holds a run.
        """
        images = as_bytes(X)
        folder_recipe: Any = RECIPES["folder"]
        recipe = dataclasses.replace(
            folder_recipe,
            num_slots=self.num_slots,
            resolution=self.resolution,
            steps=folder_recipe.steps if self.steps is None else self.steps,
            seed=self.seed,
            test_iterations=self.iterations,
        )
        with tempfile.TemporaryDirectory(prefix="objecthood-") as temporary:
            folder = Path(temporary) / "images"
            folder.mkdir()
            for number, image in enumerate(images):
                Image.fromarray(image).save(folder / f"{number:07d}.png", compress_level=1)
            run = Path(self.out) if self.out is not None else Path(temporary) / "run"
            recipe = dataclasses.replace(recipe, data_path=str(folder))
            self.scores_: dict[str, float] = train(recipe, run, device=self.device)["scores"]
            self.model_: Any = load(run / "weights.safetensors")
        return self

    def predict(self, X: Images) -> Int16[np.ndarray, "images height width"]:
        """The slot with the largest mask at every pixel, 0 to num_slots - 1, at the size of the images; -1
        outside the crop of a model whose `fit` is "crop"."""
        return np.stack([result.labels for result in self._results(X)])

    def transform(self, X: Images) -> Float[np.ndarray, "images slots slot_dim"]:
        """The slots of each image."""
        return np.stack([result.slots.numpy() for result in self._results(X)])

    def fit_transform(self, X: Images, y: object = None) -> Float[np.ndarray, "images slots slot_dim"]:
        """`fit`, then `transform` of the same images."""
        return self.fit(X).transform(X)

    def score(self, X: Images, y: Int[np.ndarray, "images height width"] | None = None) -> float:
        """A score, higher is better: with true labels `y` (0: background) the mean foreground ARI of
        `predict`, without labels the negative mean squared reconstruction error, in [-1, 1] units."""
        if y is None:
            errors = [4 * (one.reconstruction - one.image).square().mean() for one in self._results(X)]
            return -torch.stack(errors).mean().item()
        found, truth = torch.from_numpy(self.predict(X)).long(), torch.from_numpy(np.asarray(y)).long()
        if found.shape != truth.shape:
            raise ValueError(
                f"`y` {list(truth.shape)} must have the shape of the images, {list(found.shape)}"
            )
        truth, found = truth.where(found >= 0, -1), found.clamp_min(0)  # ignore pixels outside the crop
        masks = torch.nn.functional.one_hot(found, self.model_.num_slots).movedim(-1, 1).float()
        return metrics.adjusted_rand_index(truth, masks, ignore_background=True).nanmean().item()

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name."""
        names = ("num_slots", "resolution", "steps", "seed", "iterations", "out", "device")
        return {name: getattr(self, name) for name in names}

    def set_params(self, **settings: Any) -> ObjectFinder:
        """Change settings before `fit`; ValueError for an unknown one."""
        known = self.get_params()
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"ObjectFinder has no setting {name!r}; it has {', '.join(known)}")
            setattr(self, name, value)
        return self

    def _results(self, X: Images) -> Any:
        """A `Result` for every image."""
        if not hasattr(self, "model_"):
            raise ValueError("this ObjectFinder is not trained; call fit(images) first")
        model = self.model_.to(choose_device(self.device))
        return stream(model, list(as_bytes(X)), iterations=self.iterations)


def as_bytes(images: Any) -> UInt8[np.ndarray, "images height width 3"]:
    """Images as uint8; ValueError for an array of another shape, type or range.

    >>> as_bytes(np.ones((1, 2, 2, 3))).max()
    np.uint8(255)
    """
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        images = images.double() if images.is_floating_point() else images  # NumPy has no bfloat16
    sizes = {np.shape(image) for image in images} if isinstance(images, list | tuple) else set()
    if len(sizes) > 1:
        raise ValueError(f"images of several shapes ({str(sorted(sizes))[:60]}) must be resized to one")
    array = np.asarray(images)
    kind = f"{array.dtype} {list(array.shape)}"
    shaped = array.ndim == 4 and array.shape[-1] == 3 and 0 not in array.shape
    if not shaped or not (array.dtype == np.uint8 or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(
            f"images ({kind}) must be [images, height, width, 3], uint8 or float in [0, 1]; move channels "
            "last with np.moveaxis and repeat a grey channel three times"
        )
    if array.shape[1] * array.shape[2] > MAX_PIXELS:
        raise ValueError(f"images ({kind}) must have at most {MAX_PIXELS} pixels each; resize them")
    if array.dtype == np.uint8:
        return array
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"images ({kind}) must be in [0, 1], got {array.min():.4g} to {array.max():.4g}; divide by 255 "
            "or pass uint8"
        )
    return (array * 255).round().astype(np.uint8)
