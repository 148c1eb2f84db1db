"""From matches to cameras: one attempt of the ladder each."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.sfm.colmap import pycolmap

MIN_OBSERVATIONS = 15  # of points seen in three photos or more: with fewer a camera's place is chance
MIN_TRACK = 3
# What comes after adjusts everything again, so the mapper need not: the same photos and points come of it (within 4 of 7,168) in 55 to 80 %
# of the time, on orbit, turntable, facade and fountain.
GROWTH = 1.3  # of the model between two adjustments of all of it; COLMAP's is 1.1
FUNCTION_TOLERANCE = 1e-4  # of the cost, per step; COLMAP's is 0


@dataclass(frozen=True)
class MappingTask:
    """What every mapper needs."""

    database: Path
    images: Path
    scratch: Path
    pixel_scale: float  # pixels of the working images per pixel of those that features were found in
    seed: int
    fixed_cameras: frozenset[int]  # ids of cameras whose intrinsics are known
    registered: Callable[[], None]  # told after each photo that was placed


@dataclass(frozen=True)
class Component:
    """Photos placed in one frame. Image ids are indices of the photos plus one."""

    reconstruction: pycolmap.Reconstruction
    found_by: str

    @property
    def rank(self) -> tuple[int, int]:
        """By which components compare: registered photos, then observations."""
        return self.registered, int(self.reconstruction.compute_num_observations())

    @property
    def registered(self) -> int:
        """Photos that have a place."""
        return int(self.reconstruction.num_reg_images())


def map_incrementally(task: MappingTask, relaxed: bool = False) -> list[Component]:
    """COLMAP's incremental mapper; `relaxed` starts from narrower baselines and fewer matches."""
    options = pycolmap.IncrementalPipelineOptions(
        random_seed=task.seed,
        num_threads=1,  # sums in another order give other cameras
        min_model_size=3,
        extract_colors=False,
        constant_cameras=set(task.fixed_cameras),
        ba_global_frames_ratio=GROWTH,
        ba_global_points_ratio=GROWTH,
        ba_global_function_tolerance=FUNCTION_TOLERANCE,
        ba_local_function_tolerance=FUNCTION_TOLERANCE,
    )
    options.mapper.constant_cameras = set(task.fixed_cameras)
    _scale_pixel_limits(options, task.pixel_scale)
    if relaxed:
        _relax(options)
    output = _folder(task, "relaxed" if relaxed else "incremental")
    models = pycolmap.incremental_mapping(task.database, task.images, output, options=options, next_image_callback=task.registered)
    return _components(models, "relaxed" if relaxed else "incremental")


def map_globally(task: MappingTask) -> list[Component]:
    """GLOMAP: all rotations, then all positions at once; finds its way where there is no good pair to start from."""
    options = pycolmap.GlobalPipelineOptions(random_seed=task.seed, num_threads=1)
    options.mapper.bundle_adjustment.refine_focal_length = not task.fixed_cameras
    options.mapper.bundle_adjustment.refine_extra_params = not task.fixed_cameras
    models = pycolmap.global_mapping(task.database, task.images, _folder(task, "global"), options=options)
    return _components(models, "global")


def drop_unsupported(reconstruction: pycolmap.Reconstruction) -> None:
    """Takes out photos that see too few well-seen points: the global mapper places everything that it is given."""
    while weak := [i for i in reconstruction.reg_image_ids() if _support(reconstruction, i) < MIN_OBSERVATIONS]:
        for image_id in weak:
            reconstruction.deregister_frame(reconstruction.image(image_id).frame_id)


def _support(reconstruction: pycolmap.Reconstruction, image_id: int) -> int:
    points = reconstruction.image(image_id).get_observation_points2D()
    return sum(1 for point in points if reconstruction.point3D(point.point3D_id).track.length() >= MIN_TRACK)


def _components(models: dict[int, pycolmap.Reconstruction], found_by: str) -> list[Component]:
    for model in models.values():
        drop_unsupported(model)
    found = [Component(model, found_by) for model in models.values() if model.num_reg_images() >= 2]
    return sorted(found, key=lambda component: component.rank, reverse=True)


def _scale_pixel_limits(options: pycolmap.IncrementalPipelineOptions, scale: float) -> None:
    options.mapper.init_max_error *= scale
    options.mapper.abs_pose_max_error *= scale
    options.mapper.filter_max_reproj_error *= scale
    options.triangulation.merge_max_reproj_error *= scale
    options.triangulation.complete_max_reproj_error *= scale


def _relax(options: pycolmap.IncrementalPipelineOptions) -> None:
    options.min_num_matches = 10
    options.mapper.init_min_tri_angle = 8.0
    options.mapper.init_min_num_inliers = 50
    options.mapper.abs_pose_min_num_inliers = 20
    options.mapper.abs_pose_min_inlier_ratio = 0.15


def _folder(task: MappingTask, name: str) -> Path:
    folder = task.scratch / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
