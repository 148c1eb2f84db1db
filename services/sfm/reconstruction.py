"""The stage's work from end to end."""

import shutil

from services.sfm.cameras_file import write_cameras
from services.sfm.colmap import pycolmap
from services.sfm.intrinsics import camera_groups
from services.sfm.ladder import Matching, Search, climb, match_all
from services.sfm.missing_photos import causes, measured_faults
from services.sfm.params import SfmParams
from services.sfm.photos import Photo, StillCamera, read_photos, still_camera
from services.sfm.refinement import refine
from services.sfm.report import failure_report, success_report
from services.sfm.undistortion import undistort
from shared.contracts.manifest import StageReport
from shared.errors import PermanentError
from shared.photo_names import listed
from shared.runtime.workspace import Workspace

MIN_REGISTERED = 3  # two photos have no third to confirm them
MASKS_HINT = (
    "Leave the background out: options.segmentation.mode `turntable`, or a plain backdrop; or walk around the object instead of turning it."
)
BACKDROP_HINT = (
    "The object could not be told from the background: use a plain backdrop that differs from it, without texture; or walk around the "
    "object instead of turning it."
)
SAME_VIEW_HINT = "Walk around the object: take each photo from another place, in steps of 10 to 15 degrees."
LADDER_SHARE, REFINED_SHARE = 0.85, 0.95  # of the stage's progress when the ladder, and when the refinement, is done


def reconstruct(workspace: Workspace, params: SfmParams, first_matching: Matching = match_all) -> StageReport:
    """Reads working images and masks, writes cameras.json, images/, masks/, sparse/ and points.ply. `first_matching`: as `climb` says."""
    photos = read_photos(workspace.inputs("ingest"), workspace.inputs("segmentation"))
    pycolmap.set_random_seed(params.random_seed)
    scratch = workspace.scratch / "sfm"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    groups = camera_groups(photos, params)
    search = Search(photos, groups, params, scratch, lambda done, message: workspace.progress(LADDER_SHARE * done, message))
    search.measured = measured_faults(workspace.earlier_steps())
    tripod = still_camera(workspace.inputs("segmentation"))
    search.stood_still = tripod is not None and not any(photo.mask for photo in photos)
    climb(search, workspace.reduction, first_matching)
    refuse_too_few(search, tripod)
    workspace.progress(LADDER_SHARE, "refining cameras")
    refine(search, params, workspace.reduction)
    write_outputs(workspace, search, params)
    return success_report(search)


def refuse_too_few(search: Search, tripod: StillCamera | None) -> None:
    """Raises PermanentError unless enough photos are placed; `tripod`: where the camera stood still."""
    placed = search.components[0].registered if search.components else 0
    total = len(search.photos)
    if placed >= max(MIN_REGISTERED, search.params.min_registered * total):
        return
    report = failure_report(search)
    lost = listed([verdict.name for verdict in report.images if verdict.status == "dropped"])
    message = (
        f"Only {placed} of {total} photos could be placed; not these: {lost}." if placed else f"None of the {total} photos could be placed."
    )
    hint = " ".join(dict.fromkeys(cause.hint for cause in causes(search)))
    if search.stood_still and tripod is not None:
        before, hint = _tripod_words(tripod)
        message += f" The camera stood still{before}."
    raise PermanentError("TOO_FEW_REGISTERED", message, hint, report)


def _tripod_words(tripod: StillCamera) -> tuple[str, str]:
    """How the sentence on a camera that stood still goes on, and the hint."""
    if tripod.same_view:
        return ", and nothing moved before it", SAME_VIEW_HINT
    hint = MASKS_HINT if tripod.mode == "none" else BACKDROP_HINT  # the mode is no help where its masks could not be trusted
    return " before a background that did not move", hint


def write_outputs(workspace: Workspace, search: Search, params: SfmParams) -> None:
    """Everything that later steps read, of the best component."""
    workspace.progress(REFINED_SHARE, "straightening photos")
    model = search.components[0].reconstruction
    photos: list[Photo] = search.photos
    for name in ("images", "masks", "sparse"):
        shutil.rmtree(workspace.outputs / name, ignore_errors=True)
    model.extract_colors_for_all_images(photos[0].path.parent)
    straight = undistort(model, photos, workspace.outputs, params.max_output_size)
    write_cameras(workspace.outputs / "cameras.json", model, straight, photos)
    straight.reconstruction.export_PLY(workspace.outputs / "points.ply")
    workspace.progress(1.0, "cameras placed")
