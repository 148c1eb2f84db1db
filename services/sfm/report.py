"""What the stage says about its cameras, and which doubts it has."""

import statistics
from typing import Any

import cv2
from pydantic import JsonValue

from services.sfm.colmap import pycolmap
from services.sfm.focus_texture import focus_warnings
from services.sfm.ladder import Search
from services.sfm.missing_photos import causes
from shared.contracts.manifest import ImageVerdict, StageReport, Warning
from shared.photo_names import listed

PLAUSIBLE_DISTORTION = 0.3  # |k| of SIMPLE_RADIAL beyond this is more often a weak capture than a lens
PLAUSIBLE_FOCAL_DRIFT = 0.15  # between EXIF and the focal length found


def success_report(search: Search) -> StageReport:
    """Numbers, verdicts and warnings of the best component."""
    return StageReport(summary=_summary(search), images=_verdicts(search), warnings=tuple(_warnings(search)), engines=_engines())


def failure_report(search: Search) -> StageReport:
    """What can still be said when too few photos were placed."""
    warnings = (*_missing(search), *_separate(search))
    return StageReport(summary=_summary(search), images=_verdicts(search), warnings=warnings, engines=_engines())


def _engines() -> dict[str, str]:
    return {"pycolmap": pycolmap.__version__, "opencv": cv2.__version__}


def _placed(search: Search) -> set[int]:
    return set(search.components[0].reconstruction.reg_image_ids()) if search.components else set()


def _verdicts(search: Search) -> tuple[ImageVerdict, ...]:
    placed = _placed(search)
    return tuple(
        ImageVerdict(name=photo.name, status="registered")
        if index + 1 in placed
        else ImageVerdict(name=photo.name, status="dropped", reason="NOT_REGISTERED")
        for index, photo in enumerate(search.photos)
    )


def _summary(search: Search) -> dict[str, JsonValue]:
    summary: dict[str, Any] = {
        "images": len(search.photos),
        "registered": len(_placed(search)),
        "attempts": search.tried,
        "components": [component.registered for component in search.components],
    }
    if search.components:
        summary |= _model_summary(search)
    return summary


def _model_summary(search: Search) -> dict[str, Any]:
    best = search.components[0]
    model = best.reconstruction
    return {
        "found_by": best.found_by,
        "points": model.num_points3D(),
        "observations": model.compute_num_observations(),
        "reprojection_error_px": round(model.compute_mean_reprojection_error() / search.pixel_scale, 4),
        "reprojection_error_scale": round(1.0 / search.pixel_scale, 4),  # size of the images it is measured in, of the working images
        "track_length": round(model.compute_mean_track_length(), 3),
        "observations_per_image": round(model.compute_mean_observations_per_reg_image(), 1),
        "refined": {"moved_px": round(search.refinement.moved_px, 4), "dropped": round(search.refinement.dropped, 4)}
        if search.refinement
        else None,
        "features_per_image": round(statistics.mean(search.feature_counts), 1),
        "cameras": [_camera_summary(search, camera_id) for camera_id in sorted(_used_cameras(search))],
    }


def _used_cameras(search: Search) -> set[int]:
    model = search.components[0].reconstruction
    return {model.image(i).camera_id for i in model.reg_image_ids()}


def _camera_summary(search: Search, camera_id: int) -> dict[str, Any]:
    camera = search.components[0].reconstruction.camera(camera_id)
    group = search.groups[camera_id - 1]
    prior = group.camera.mean_focal_length() if group.camera.has_prior_focal_length else None
    return {
        "model": camera.model_name,
        "params": [round(float(value), 6) for value in camera.params],
        "width": camera.width,
        "height": camera.height,
        "images": len(group.photos),
        "focal_prior_px": round(prior, 2) if prior else None,
        "source": "given" if group.fixed else "exif" if prior else "found",
    }


def _warnings(search: Search) -> list[Warning]:
    walked_around = focus_warnings(search.components[0].reconstruction, [photo.name for photo in search.photos])
    return [*_missing(search), *_separate(search), *_lenses(search), *_unused_camera(search), *walked_around]


def _missing(search: Search) -> list[Warning]:
    found = causes(search)
    if not found:
        return []
    names = tuple(name for cause in found for name in cause.photos)
    message = f"{len(names)} of {len(search.photos)} photos could not be placed. " + " ".join(cause.message for cause in found)
    return [Warning(code="NOT_REGISTERED", message=message, hint=" ".join(cause.hint for cause in found), photos=names)]


def _separate(search: Search) -> list[Warning]:
    placed = [component.reconstruction.reg_image_ids() for component in search.components]
    apart = [ids for ids in placed[1:] if len(ids) >= 3 and set(ids) - set(placed[0])]  # a group may repeat what the largest has
    if not apart:
        return []
    groups = [[search.photos[image_id - 1].name for image_id in sorted(ids)] for ids in (placed[0], *apart)]
    named = "; ".join(f"{len(names)} photos: {listed(names, 6)}" for names in groups[:4])
    message = f"The photos fall into {len(groups)} groups that do not connect, of which only the largest can be used. {named}."
    hint = "Take photos that connect the groups, with 60 to 80 % overlap; if they show different things, send them as jobs of their own."
    return [Warning(code="SEVERAL_COMPONENTS", message=message, hint=hint, photos=tuple(name for names in groups[1:] for name in names))]


def _lenses(search: Search) -> list[Warning]:
    found = []
    for camera_id in sorted(_used_cameras(search)):
        camera, group = search.components[0].reconstruction.camera(camera_id), search.groups[camera_id - 1]
        if group.fixed:
            continue
        drift = abs(camera.mean_focal_length() / group.camera.mean_focal_length() - 1.0) if group.camera.has_prior_focal_length else 0.0
        if abs(camera.params[-1]) > PLAUSIBLE_DISTORTION or drift > PLAUSIBLE_FOCAL_DRIFT:
            found.append(camera_id)
    if not found:
        return []
    message = "The lens found from the photos is unlikely: focal length or distortion is far from what lenses have."
    hint = "Take photos from more distances and directions, keep EXIF, or give options.sfm.camera."
    return [Warning(code="UNCERTAIN_LENS", message=message, hint=hint)]


def _unused_camera(search: Search) -> list[Warning]:
    unfit = sum(len(group.photos) for group in search.groups if not group.fixed)
    if search.params.camera is None or not unfit:
        return []
    message = f"The given camera has other proportions than {unfit} of the photos; for those the lens was found instead."
    return [Warning(code="CAMERA_NOT_APPLIED", message=message, hint="Give the camera for the upright photo.")]
