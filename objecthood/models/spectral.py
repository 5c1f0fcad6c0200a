"""Segmentation of photographs: frozen features, normalised cuts and a guided filter.

The backbone (`nn.backbones`) was trained with class labels of ImageNet, the objectness head (`nn.objectness`)
on what moves in videos; the grouping (`nn.consensus_cut`, `nn.guided_filter`) is not trained. A slot is the
mean feature of its segment, of unit length. `finer` adds small objects from a finer grid (`nn.fine_cut`).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from objecthood.models.base import Embeddings, SpectralStages
from objecthood.models.of_photographs import PhotographModel, PhotographOutput, at_size, check_colour_image
from objecthood.nn.backbones import LAYERS, EfficientNetLite0, resized, working_size
from objecthood.nn.consensus_cut import ConsensusCut
from objecthood.nn.fine_cut import FineCut
from objecthood.nn.guided_filter import masks_at_size
from objecthood.nn.normalised_cut import CutOutput
from objecthood.nn.objectness import ObjectnessHead

FINE_RADIUS = 6
"""Radius of the guided filter for small segments: half of that of others, which would erase them."""


class SpectralSegmenter(PhotographModel):
    """Segments images of any size and aspect ratio; the number of segments is found. Deterministic.

    Args:
        backbone: frozen features, `EfficientNetLite0.bundled()` by default.
        cut: segmentation of the embeddings (`embed`); `ConsensusCut(num_segments=K)` gives K segments.
        sides: scales of the backbone's input, descending: areas of about side x side pixels, with the aspect
            ratio kept to within half a grid cell.
        fine: small segments of a grid of twice the resolution, laid over the others; None: none.
        objectness: of the backbone's features, by default `ObjectnessHead.bundled()` for its own layers and
            none for others; a `cut` without tolerance makes no use of it.

    Raises:
        ValueError: `sides` is empty, not descending, or below 1 pixel; `objectness` is of other features.

    Example:
        >>> output = SpectralSegmenter(sides=(128,)).divide(torch.rand(3, 60, 90))
        >>> output.masks.shape[1:], output.attention.shape[1:]
        (torch.Size([60, 90]), torch.Size([7, 10]))
    """

    num_slots = 14  # typical of photographs; `segment` finds the number

    def __init__(
        self,
        backbone: EfficientNetLite0 | None = None,
        cut: ConsensusCut | None = None,
        sides: tuple[int, ...] = (448, 320),
        fine: FineCut | None = None,
        objectness: ObjectnessHead | None = None,
    ):
        super().__init__()
        if not sides or list(sides) != sorted(sides, reverse=True) or sides[-1] < 1:
            raise ValueError(f"`sides` (={sides}) must descend to at least 1 pixel")
        self.backbone = EfficientNetLite0.bundled() if backbone is None else backbone
        self.cut = ConsensusCut() if cut is None else cut
        self.sides, self.fine = tuple(sides), fine
        if objectness is None and self.backbone.layers == LAYERS:
            objectness = ObjectnessHead.bundled()
        dim = self.backbone.feature_dim
        if objectness is not None and (found := len(objectness.mean)) != dim:
            raise ValueError(f"`objectness` of {found} channels must be of the backbone's {dim}")
        self.objectness = objectness
        self.image_size = (sides[0], sides[0])
        self.feature_grid = (sides[0] // self.backbone.stride,) * 2

    @property
    def slot_dim(self) -> int:
        """Channels of the backbone's features."""
        return self.backbone.feature_dim

    @torch.no_grad()
    def embed(self, image: Float[Tensor, "3 height width"]) -> Embeddings:
        """Unit embeddings of an image in [0, 1]: of the finest scale, and, with several scales, of all
        concatenated on the finest grid; and where objects are likely."""
        scales: list[Tensor] = []
        for side in self.sides:
            found = self._features(image, working_size(image, side**2, self.backbone.stride))
            if scales:
                found = F.interpolate(found, size=scales[0].shape[:2], mode="bilinear", align_corners=False)
            scales.append(F.normalize(found[0].movedim(0, -1), dim=-1))
        combined = torch.cat(scales, dim=-1) / len(scales) ** 0.5
        objects = None if self.objectness is None else self.objectness.probability(scales[0])
        return Embeddings([scales[0], combined] if len(scales) > 1 else scales, objects)

    def _features(self, image: Tensor, size: tuple[int, int]) -> Float[Tensor, "1 _ rows columns"]:
        """Normalised features of an image that is resized to `size`."""
        return self.backbone.normalise(self.backbone(resized(image, size))).movedim(-1, 1)

    @torch.no_grad()
    def group(self, image: Tensor, num_segments: int | None = None) -> tuple[Tensor, Tensor]:
        found = self._cut(image, num_segments)
        return found.slots, found.attention

    @torch.no_grad()
    def divide(self, image: Tensor, num_segments: int | None = None) -> PhotographOutput:
        """As `PhotographModel.divide`; `num_segments` are without those of `fine`, and that of the cut unless
        given."""
        if self.fine is None:
            return super().divide(image, num_segments)
        check_colour_image(image)
        found = self._cut(image, num_segments)
        output = at_size((found.slots, found.attention), image)
        return self._with_small(output, image, self.fine, found.agreement)

    def _cut(self, image: Tensor, num_segments: int | None) -> CutOutput:
        cut = self.cut if num_segments is None else replace(self.cut, num_segments=num_segments)
        return cut(*self.embed(image))

    def _with_small(
        self, output: PhotographOutput, image: Tensor, fine: FineCut, agreement: Tensor
    ) -> PhotographOutput:
        """The output with small segments laid over the others, which keep the rest."""
        rows, columns = (2 * number * self.backbone.stride for number in output.attention.shape[1:])
        embedding = F.normalize(self._features(image, (rows, columns))[0].movedim(0, -1), dim=-1)
        small = fine(embedding, agreement)
        rest = 1 - small.sum(dim=0, keepdim=True)
        masks = masks_at_size(torch.cat([small, rest]), image, radius=FINE_RADIUS)
        # A small segment takes a pixel where it has more of it than all others have together.
        masks = torch.cat([output.masks * masks[-1:], masks[:-1] * output.masks.amax(dim=0)])
        shares = F.avg_pool2d(torch.cat([small, rest])[None], 2)[0]
        slots = F.normalize(torch.einsum("shw,hwd->sd", small, embedding), dim=-1)
        return PhotographOutput(
            torch.cat([output.slots, slots]),
            masks / masks.sum(dim=0),
            torch.cat([output.attention * shares[-1:], shares[:-1]]),
        )

    def finer(self) -> SpectralSegmenter:
        """The same model with small segments of a finer grid."""
        return SpectralSegmenter(
            self.backbone, self.cut, self.sides, self.fine or FineCut(), self.objectness
        ).eval()

    def export_stages(self) -> SpectralStages:
        cut = self.cut
        return SpectralStages(self.backbone, self.sides, cut.distance, cut, self.objectness, self.embed)
