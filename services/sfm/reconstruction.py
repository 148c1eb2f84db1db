"""The stage's work from end to end."""

import shutil

from services.sfm.cameras_file import write_cameras
from services.sfm.colmap import pycolmap
from services.sfm.intrinsics import camera_groups
from services.sfm.ladder import Search, climb
from services.sfm.missing_photos import causes
from services.sfm.params import SfmParams
from services.sfm.photos import Photo, read_photos, still_camera
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
LADDER_SHARE, REFINED_SHARE = 0.85, 0.95  # of the stage's progress when the ladder, and when the refinement, is done


def reconstruct(workspace: Workspace, params: SfmParams) -> StageReport:
    """Reads working images and masks, writes cameras.json, images/, masks/, sparse/ and points.ply."""
    photos = read_photos(workspace.inputs("ingest"), workspace.inputs("segmentation"))
    pycolmap.set_random_seed(params.random_seed)
    scratch = workspace.scratch / "sfm"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    groups = camera_groups(photos, params)
    search = Search(photos, groups, params, scratch, lambda done, message: workspace.progress(LADDER_SHARE * done, message))
    masked_by = still_camera(workspace.inputs("segmentation"))
    search.stood_still = masked_by is not None and not any(photo.mask for photo in photos)
    climb(search, workspace.reduction)
    refuse_too_few(search, masked_by)
    workspace.progress(LADDER_SHARE, "refining cameras")
    refine(search, params, workspace.reduction)
    write_outputs(workspace, search, params)
    return success_report(search)


def refuse_too_few(search: Search, masked_by: str | None) -> None:
    """Raises PermanentError unless enough photos are placed; `masked_by`: segmentation's mode, where the camera stood still."""
    placed = search.components[0].registered if search.components else 0
    total = len(search.photos)
    if placed >= max(MIN_REGISTERED, search.params.min_registered * total):
        return
    report = failure_report(search)
    lost = listed([verdict.name for verdict in report.images if verdict.status == "dropped"])
    message = (
        f"Only {placed} of {total} photos could be placed; not these: {lost}." if placed else f"None of the {total} photos could be placed."
    )
    if search.stood_still:
        message += " The camera stood still before a background that did not move."
    tripod_hint = MASKS_HINT if masked_by == "none" else BACKDROP_HINT  # the mode is no help where its masks could not be trusted
    hint = tripod_hint if search.stood_still else " ".join(cause.hint for cause in causes(search))
    raise PermanentError("TOO_FEW_REGISTERED", message, hint, report)


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
