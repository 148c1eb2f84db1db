"""cameras.json: places and intrinsics of the registered photos."""

import json
from pathlib import Path
from typing import Any

from services.sfm.colmap import pycolmap
from services.sfm.photos import Photo
from services.sfm.undistortion import Straight


def write_cameras(path: Path, distorted: pycolmap.Reconstruction, straight: Straight, photos: list[Photo]) -> None:
    """World to camera, OpenCV axes; K belongs to the undistorted image, `distorted` to the photo as sent, upright."""
    images = {
        photos[image_id - 1].name: _camera(image_id, distorted, straight, photos[image_id - 1])
        for image_id in sorted(straight.reconstruction.reg_image_ids())
    }
    path.write_text(json.dumps({"images": images}, indent=1))


def _camera(image_id: int, distorted: pycolmap.Reconstruction, straight: Straight, photo: Photo) -> dict[str, Any]:
    image = straight.reconstruction.image(image_id)
    camera = straight.reconstruction.camera(image.camera_id)
    pose = image.cam_from_world()
    return {
        "file": straight.files[image_id],
        "mask": straight.masks.get(image_id),
        "R": pose.rotation.matrix().tolist(),
        "t": pose.translation.tolist(),
        "K": camera.calibration_matrix().tolist(),
        "width": camera.width,
        "height": camera.height,
        "distorted": _as_sent(distorted.camera(distorted.image(image_id).camera_id), photo),
    }


def _as_sent(camera: pycolmap.Camera, photo: Photo) -> dict[str, Any]:
    scaled = pycolmap.Camera(camera.todict())
    scaled.rescale(photo.original_width, photo.original_height)
    return {"model": scaled.model_name, "params": scaled.params.tolist(), "width": scaled.width, "height": scaled.height}
