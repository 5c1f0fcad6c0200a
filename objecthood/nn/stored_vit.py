"""A vision transformer whose weights are stored with the model: the encoder of a converted checkpoint.

Other backbones are restored by name (`nn.frozen`). Published slot models hold their own copy, and SPOT's
second stage has trained its last blocks, so that no name stands for it. Names of weights are those of DINO's
code and of `timm`, where DINO (Caron et al. 2021, arXiv 2104.14294), MAE (He et al. 2022, 2111.06377) and
DINOv2 (Oquab et al. 2023, 2304.07193) are one architecture: Dosovitskiy et al. 2021 (arXiv 2010.11929),
pre-norm, exact GELU, epsilon 1e-6; DINOv2 scales what each block adds. The last norm is left out (DINOSAUR,
SPOT, VideoSAUR and SlotContrast do not use it).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.nn import frozen
from objecthood.nn.vit_backbones import IMAGENET_DEVIATION, IMAGENET_MEAN

HEAD_DIM = 64
"""Size of a head in all sizes of ViT that DINO, MAE and DINOv2 published."""
_NAME = re.compile(r"vit-([0-9]{1,4})-([0-9]{1,2})-([0-9]{1,2})(-scaled)?(?:-r([0-9]{1,2}))?")


class Shape(NamedTuple):
    """What is needed beside the weights.

    Example:
        >>> Shape.of("vit-384-12-14-scaled")
        Shape(dim=384, depth=12, patch=14, scaled=True, registers=0)
        >>> Shape.of("vit-384-12-14-scaled").name
        'vit-384-12-14-scaled'
    """

    dim: int
    depth: int
    patch: int
    scaled: bool = False
    """Whether what a block adds is scaled, for each channel (DINOv2)."""
    registers: int = 0
    """Number of register tokens."""

    @classmethod
    def of(cls, name: str) -> Shape:
        """The shape of that name; ValueError if it is malformed, or no shape of a ViT."""
        match = _NAME.fullmatch(name)
        numbers = [int(part) for part in match.group(1, 2, 3)] if match else [0]
        if match is None or min(numbers) < 1 or numbers[0] % HEAD_DIM:
            raise ValueError(
                f"stored backbone {name!r:.60} must be vit-DIM-DEPTH-PATCH, with a DIM that is a multiple of "
                f"{HEAD_DIM}, then -scaled and -rREGISTERS where it has them"
            )
        dim, depth, patch = numbers
        return cls(dim, depth, patch, match[4] is not None, int(match[5] or 0))

    @property
    def name(self) -> str:
        """For a recipe; `of` reads it."""
        scaled, registers = "-scaled" * self.scaled, f"-r{self.registers}" if self.registers else ""
        return f"vit-{self.dim}-{self.depth}-{self.patch}{scaled}{registers}"


class StoredViT(nn.Module):
    """Patch features of images of one size, after all blocks; never trained.

    Args:
        shape: of the transformer.
        image_size: height and width of the images in pixels, multiples of the patch.

    Example:
        >>> features = StoredViT(Shape(dim=64, depth=2, patch=8), (32, 48))
        >>> features(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 4, 6, 64])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, shape: Shape, image_size: tuple[int, int]):
        super().__init__()
        self.stride, self.feature_dim, self.image_size = shape.patch, shape.dim, image_size
        rows, columns = self.grid(image_size)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.dim, shape.patch, shape.patch)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, shape.registers, shape.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, shape.dim))
        self.blocks = nn.ModuleList(_Block(shape.dim, shape.scaled) for _ in range(shape.depth))
        for name, values in (("mean", IMAGENET_MEAN), ("deviation", IMAGENET_DEVIATION)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.cls_token.device

    @property
    def key(self) -> str:
        """What features depend on beside the images."""
        return f"stored {frozen.sha256_of(self)}"

    def train(self, mode: bool = True) -> StoredViT:
        """No effect: the module stays in evaluation mode."""
        return super().train(False)

    def grid(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the features; ValueError for another size than its own."""
        height, width = image_size
        if tuple(image_size) != tuple(self.image_size) or height % self.stride or width % self.stride:
            raise ValueError(
                f"images of {height} x {width} pixels must be {self.image_size[0]} x {self.image_size[1]}, "
                f"multiples of {self.stride}: the positions of these weights are of that size"
            )
        return height // self.stride, width // self.stride

    @torch.no_grad()
    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch rows columns feature_dim"]:
        """Features of images in [0, 1], without a gradient; ValueError for images of another size."""
        grid = self.grid((images.shape[2], images.shape[3]))
        patches = self.patch_embed["proj"]((images - self.mean) / self.deviation).flatten(2).transpose(1, 2)
        first = self.cls_token.expand(images.shape[0], -1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.pos_embed
        registers = self.register_tokens.expand(images.shape[0], -1, -1)
        tokens = torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens[:, -patches.shape[1] :].unflatten(1, grid)


class _Block(nn.Module):
    """Attention and an MLP, each of normalised tokens and added to them."""

    def __init__(self, dim: int, scaled: bool):
        super().__init__()
        self.heads = dim // HEAD_DIM
        self.norm1, self.norm2 = (nn.LayerNorm(dim, eps=1e-6) for _ in range(2))
        self.attn = nn.ModuleDict({"qkv": nn.Linear(dim, 3 * dim), "proj": nn.Linear(dim, dim)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(dim, 4 * dim), "fc2": nn.Linear(4 * dim, dim)})
        for name in ("ls1", "ls2") if scaled else ():
            self.register_module(name, nn.ParameterDict({"gamma": nn.Parameter(torch.ones(dim))}))
        self.scaled = scaled

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        parts = self.attn["qkv"](self.norm1(tokens)).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + self._scaled("ls1", self.attn["proj"](seen))
        hidden = self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return tokens + self._scaled("ls2", hidden)

    def _scaled(self, name: str, added: Tensor) -> Tensor:
        return added * getattr(self, name)["gamma"] if self.scaled else added
