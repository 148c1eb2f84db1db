"""What a method of segmentation gives for one photo."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # h×w×3, RGB
Mask = NDArray[np.uint8]  # h×w, 255 = object


@dataclass(frozen=True)
class ObjectMask:
    """`confidence` is 0 to 1; `mask` has the photo's size."""

    mask: Mask
    confidence: float

    @property
    def coverage(self) -> float:
        """Share of the photo that is object."""
        return float((self.mask > 0).mean())


class Segmenter(Protocol):
    """A method of segmentation."""

    def segment(self, photo: Image) -> ObjectMask: ...
