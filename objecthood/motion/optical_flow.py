"""Optical flow between images by OpenCV's DIS (extra `video`).

Kroeger et al. 2016, "Fast Optical Flow using Dense Inverse Search" (ECCV). It needs no training and takes
about 20 ms per pair on one core at 240 rows; learned flow (RAFT) is much better at thin and fast objects.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from objecthood.data.io.images import ImageError


class DenseInverseSearch:
    """DIS with the medium preset down to the finest scale; flow as (across, down) in pixels. Several threads
    may call it at a time.

    Raises:
        ImageError: OpenCV is not installed.
    """

    def __init__(self) -> None:
        self._cv2 = import_cv2()
        self._of_thread = threading.local()  # OpenCV's object holds its last images

    def __call__(
        self, frame: UInt8[np.ndarray, "height width 3"], other: UInt8[np.ndarray, "height width 3"]
    ) -> Float32[np.ndarray, "height width 2"]:
        """Displacement of each pixel of `frame` to `other`."""
        grey = [self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY) for image in (frame, other)]
        return self._search().calc(*grey, None)

    def _search(self) -> Any:
        if not hasattr(self._of_thread, "search"):
            search = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
            search.setFinestScale(0)  # the preset stops at half resolution, which blurs object borders
            self._of_thread.search = search
        return self._of_thread.search


def import_cv2() -> Any:
    """OpenCV on one thread; ImageError if it is not installed."""
    try:
        import cv2
    except ImportError as error:
        raise ImageError("optical flow needs OpenCV: pip install 'objecthood[video]'") from error
    cv2.setNumThreads(1)
    return cv2
