"""Motion of the cells of a grid without that of the camera: what slots over features see beside them.

Optical flow by DIS between small frames, minus a robustly fitted affine field (`motion.fields`), averaged in
each cell. Speeds are compressed by an inverse hyperbolic sine: the difference of two slow motions counts as
much as that of two fast ones, and noise of the flow stays small.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from objecthood.motion.fields import without_camera
from objecthood.motion.optical_flow import DenseInverseSearch

CELL = 16
"""Side of a cell in pixels of the small frames: 28 ms a frame on a grid of 12 x 12. With 8, 12 ms; motion of
sprites on a texture then correlates with the true one by 0.83, with 16 by 0.86."""
KEPT = 4
"""Factor by which the flow is downsampled for the camera's fit."""
SLOW = 1 / 256
"""Speed, in sides of the frame per frame, up to which the compression is about linear."""


class ResidualMotion(nn.Module):
    """Residual motion of frames in [0, 1] on a grid; it has no weights.

    Args:
        grid: rows and columns.

    Raises:
        ImageError: OpenCV is not installed (from the first call).

    Example:
        >>> from objecthood.data.generated.moving_sprites import MovingSprites
        >>> clips = MovingSprites(frames=2, background="textured")[range(1)]["image"]
        >>> ResidualMotion((4, 4)).of_clips(clips).shape
        torch.Size([1, 2, 4, 4, 2])
    """

    def __init__(self, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid
        self._search: DenseInverseSearch | None = None

    @torch.no_grad()
    def forward(
        self,
        frame: Float[Tensor, "batch 3 height width"],
        following: Float[Tensor, "batch 3 height width"] | None = None,
        previous: Float[Tensor, "batch 3 height width"] | None = None,
    ) -> Float[Tensor, "batch rows columns 2"]:
        """Compressed motion, across and down, towards the following frame, else from the previous one; zero
        without either."""
        other = previous if following is None else following
        if other is None:
            return frame.new_zeros(len(frame), *self.grid, 2)
        sign = 1 if following is not None else -1
        pairs = zip(self._small(frame), self._small(other), strict=True)
        flow = sign * torch.stack([self._residual(*pair) for pair in pairs])
        motion = F.adaptive_avg_pool2d(flow, self.grid).movedim(1, -1).to(frame)
        speed = motion.norm(dim=-1, keepdim=True)
        return motion / speed.clamp_min(1e-9) * (speed / SLOW).asinh()

    def of_clips(
        self, clips: Float[Tensor, "batch time 3 height width"]
    ) -> Float[Tensor, "batch time rows columns 2"]:
        """The motion of every frame, of the last one from the frame before."""
        frames = clips.unbind(1)
        triples = zip(frames, [*frames[1:], None], [None, *frames[:-1]], strict=True)
        return torch.stack([self(*triple) for triple in triples], dim=1)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_search": None}  # OpenCV's object cannot be copied

    def _small(self, frames: Tensor) -> list[np.ndarray]:
        """8-bit frames of `CELL` pixels a cell."""
        size = [CELL * side for side in self.grid]
        small = F.interpolate(frames.detach().cpu().float(), size, mode="area")
        return list(small.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())

    def _residual(self, frame: np.ndarray, other: np.ndarray) -> Float[Tensor, "2 rows columns"]:
        """Flow without the camera's, in shorter sides of the frame."""
        self._search = self._search or DenseInverseSearch()
        flow = torch.from_numpy(self._search(frame, other)).permute(2, 0, 1)
        residual = torch.from_numpy(without_camera(F.avg_pool2d(flow, KEPT).numpy()))  # takes pixels
        return residual / (CELL * min(self.grid))
