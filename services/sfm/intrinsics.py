"""Which camera took each photo, and what is known about it beforehand."""

from dataclasses import dataclass

from services.sfm.colmap import pycolmap
from services.sfm.params import SfmParams
from services.sfm.photos import Photo

DEFAULT_FOCAL = 1.2  # times the longest side: 45 degrees, between a phone and a short telephoto lens
ASPECT_TOLERANCE = 0.01  # a given camera fits a photo whose sides have its proportions


@dataclass(frozen=True)
class CameraGroup:
    """Photos that share intrinsics, as indices. `fixed` ones were given by the caller and are not refined."""

    camera: pycolmap.Camera
    photos: tuple[int, ...]
    fixed: bool


def camera_groups(photos: list[Photo], params: SfmParams) -> list[CameraGroup]:
    """Every photo is in exactly one group."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault(_group_key(index, photo, params), []).append(index)
    return [_group(photos, indices, params) for indices in groups.values()]


def fits(photo: Photo, params: SfmParams) -> bool:
    """Whether the given camera has the proportions of this photo."""
    if params.camera is None:
        return False
    aspect = params.camera.width / params.camera.height
    return abs(photo.width / photo.height / aspect - 1.0) < ASPECT_TOLERANCE


def _group_key(index: int, photo: Photo, params: SfmParams) -> tuple[object, ...]:
    size = (photo.width, photo.height)
    if params.shared_camera == "never":
        return (*size, index)
    return size if params.shared_camera == "always" or fits(photo, params) else (*size, photo.camera_key)


def _group(photos: list[Photo], indices: list[int], params: SfmParams) -> CameraGroup:
    first = photos[indices[0]]
    if fits(first, params):
        return CameraGroup(given_camera(first, params), tuple(indices), True)
    priors = sorted(photo.focal_px for photo in (photos[i] for i in indices) if photo.focal_px)
    focal = priors[len(priors) // 2] if priors else DEFAULT_FOCAL * first.longest_side
    camera = pycolmap.Camera.create_from_model_id(0, pycolmap.CameraModelId.SIMPLE_RADIAL, focal, first.width, first.height)
    camera.has_prior_focal_length = bool(priors)
    return CameraGroup(camera, tuple(indices), False)


def given_camera(photo: Photo, params: SfmParams) -> pycolmap.Camera:
    """The caller's intrinsics in pixels of the working image."""
    given = params.camera
    assert given is not None
    camera = pycolmap.Camera(model=given.model, width=given.width, height=given.height, params=list(given.params))
    camera.rescale(photo.width, photo.height)
    camera.has_prior_focal_length = True
    return camera
