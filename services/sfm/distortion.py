"""Which lenses have a distortion that the photos determine.

Bundle adjustment always finds one. On a turntable, or with a small object in the middle of the photo, it trades against the focal length at
almost no cost (temple-ring: k = -0.31 and a focal length 2 % too long, for a lens that has none), and on rendered photos it is noise of
a quarter of a pixel in the corners. Both go away when distortion is held at zero wherever it explains next to nothing.
"""

import copy

from services.sfm.bundle_adjustment import adjust, mean_squared_residuals
from services.sfm.colmap import pycolmap

EXPLAINED_PX = (
    0.04  # root mean square over a camera's observations; a true k of -0.05 explains 0.05 in a 480 px photo, the turntable's -0.31 0.03
)


def settle_distortion(model: pycolmap.Reconstruction, fixed_cameras: frozenset[int], pixel_scale: float) -> pycolmap.Reconstruction:
    """The model with k = 0 for each camera whose observations lose less than `EXPLAINED_PX` by it, in pixels of the images that features
    were found in (`pixel_scale`: working images' pixels per one of those). `fixed_cameras` stay as they are."""
    loose = {i for i in _used_cameras(model) - fixed_cameras if model.camera(i).model == pycolmap.CameraModelId.SIMPLE_RADIAL}
    if not loose:
        return model
    before, limit = mean_squared_residuals(model), (EXPLAINED_PX * pixel_scale) ** 2
    straight = _held(model, loose, fixed_cameras)
    after = mean_squared_residuals(straight)
    undetermined = {i for i in loose if after.get(i, 0.0) - before.get(i, 0.0) < limit}
    if undetermined == loose:
        return straight
    return _held(model, undetermined, fixed_cameras) if undetermined else model


def _held(model: pycolmap.Reconstruction, held: set[int], fixed_cameras: frozenset[int]) -> pycolmap.Reconstruction:
    """Adjusted anew without a distortion for the cameras `held`."""
    result = copy.deepcopy(model)
    for camera_id in held:
        camera = result.camera(camera_id)
        f, cx, cy = camera.focal_length, camera.principal_point_x, camera.principal_point_y
        camera.model, camera.params = pycolmap.CameraModelId.SIMPLE_PINHOLE, [f, cx, cy]
    adjust(result, fixed_cameras)
    for camera_id in held:
        camera = result.camera(camera_id)
        params = list(camera.params)
        camera.model, camera.params = pycolmap.CameraModelId.SIMPLE_RADIAL, [*params, 0.0]
    return result


def _used_cameras(model: pycolmap.Reconstruction) -> set[int]:
    return {model.image(i).camera_id for i in model.reg_image_ids()}
