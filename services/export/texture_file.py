"""The texture as the file that goes into the GLB and the OBJ archive."""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray


def encode_texture(pixels: NDArray[np.uint8], kind: Literal["jpeg", "png"], quality: int) -> bytes:
    """RGB pixels as JPEG (full colour resolution: seams show in subsampled chroma) or PNG."""
    bgr = np.ascontiguousarray(pixels[..., ::-1])
    if kind == "png":
        done, data = cv2.imencode(".png", bgr, [cv2.IMWRITE_PNG_COMPRESSION, 6])
    else:
        full_chroma = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality, *full_chroma])
    if not done:
        raise ValueError("the texture could not be encoded")
    return bytes(data)
