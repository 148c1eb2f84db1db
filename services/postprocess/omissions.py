"""What the photos show and the model lacks: a body that nothing holds up, points that it does not reach, a hole where the cameras look.

None of these says how much is missing: what stereo never matched is known to nobody. They say that something is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import open3d as o3d
from numpy.typing import NDArray

from services.postprocess.capture import Camera, Cloud, Floats
from services.postprocess.free_space import FreeSpace
from services.postprocess.isolation import FLOATER_MARGIN, Subject, above, outline, plane_margin
from services.postprocess.surface import Mesh
from services.postprocess.threads import in_threads
from services.postprocess.visibility import RayCaster

SAMPLE = 20_000  # points of the cloud whose distance is measured
LOST = 0.02  # of the diagonal: a point farther from the surface is not its noise
LOW = 0.01  # of the diagonal above the plane: below it ground and foot are one
LOOK_PX = 200  # longest side of a photo in which its middle is looked at
MIDDLE = 0.3  # of its width and height
MIN_CONTRAST = 3.0  # grey levels, standard deviation in a window: sky and plain walls have no surface to lack
WINDOW_PX = 5
MIN_PIXELS = 50  # of the middles of all photos that have contrast


@dataclass(frozen=True)
class Omissions:
    """Lengths are fractions of the model's diagonal; None: cannot be told of this capture.

    `gap_below`: between the support plane and what is lowest of an isolated object.
    `lost_points`: share of the dense cloud that the model does not reach; of an isolated object's, what is above the plane and within the
    outline, from above, of the object.
    `middle_covered`: of what has contrast in the middle of the photos of a scene, the share where the model is.
    """

    gap_below: float | None
    lost_points: float
    middle_covered: float | None

    def as_summary(self) -> dict[str, float | None]:
        """As it stands in the stage's summary."""
        values = {"gap_below": self.gap_below, "lost_points": self.lost_points, "middle_covered": self.middle_covered}
        return {name: None if value is None else round(value, 4) for name, value in values.items()}


def find_omissions(mesh: Mesh, cloud: Cloud, subject: Subject, cameras: Sequence[Camera], free_space: FreeSpace) -> Omissions:
    """Compares the model with (a sample of) the dense cloud before isolation, its support plane, and the photos of a scene."""
    lost = lost_points(mesh, cloud, subject, free_space)
    if not subject.isolated:
        return Omissions(None, lost, middle_covered(mesh, cameras))
    gap = None if subject.plane is None else float(subject.plane.height(mesh.vertices).min()) / _diagonal(mesh)
    return Omissions(None if gap is None else max(gap, 0.0), lost, None)


def lost_points(mesh: Mesh, cloud: Cloud, subject: Subject, free_space: FreeSpace) -> float:
    """Share of what belongs to the subject by its place, and stood in no photo's way, that is not on `mesh`."""
    kept, diagonal = subject.cloud, _diagonal(mesh)
    if subject.isolated and subject.plane is not None:
        belongs = outline(np.concatenate([mesh.vertices, kept.points]), subject.plane, diagonal)
        near = sample_of(cloud)
        near = near.select(above(near, subject.plane, max(plane_margin(subject.plane), LOW * diagonal)))
        kept = near.select(belongs(near.points))
    kept = _thinned(kept, SAMPLE)
    far = kept.select(_distances(mesh, kept.points) > LOST * diagonal)
    return len(free_space.without_floaters(far, FLOATER_MARGIN * diagonal)) / max(len(kept), 1) if len(far) else 0.0


def sample_of(cloud: Cloud) -> Cloud:
    """All that is looked at of a dense cloud; of a sample, itself."""
    return _thinned(cloud, 4 * SAMPLE)


def _thinned(cloud: Cloud, points: int) -> Cloud:
    """Evenly, to about so many."""
    return cloud.select(np.arange(0, len(cloud), max(1, len(cloud) // points)))


def _diagonal(mesh: Mesh) -> float:
    """Of the box around it, world units."""
    return float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))


def _distances(mesh: Mesh, points: Floats) -> Floats:
    """From points n×3 to the surface, world units."""
    scene = o3d.t.geometry.RaycastingScene(nthreads=0)
    scene.add_triangles(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32))
    return np.asarray(scene.compute_distance(o3d.core.Tensor(points.astype(np.float32))).numpy(), np.float64)


def middle_covered(mesh: Mesh, cameras: Sequence[Camera]) -> float | None:
    """Of the pixels with contrast in the middle of each photo, the share whose ray meets the mesh; None where nearly all are plain."""
    caster = RayCaster(mesh)
    covered = total = 0
    for camera, contrast in in_threads(_middle, cameras):
        covered += int((np.isfinite(caster.hits(camera)[0]) & contrast).sum())
        total += int(contrast.sum())
    return covered / total if total >= MIN_PIXELS else None


def _middle(camera: Camera) -> tuple[Camera, NDArray[np.bool_]]:
    """The camera of the middle of a photo, and where in it the photo has contrast."""
    small = camera.scaled_to(LOOK_PX)
    grey = cv2.cvtColor(small.photo(), cv2.COLOR_RGB2GRAY).astype(np.float32) - 128
    window = (WINDOW_PX, WINDOW_PX)
    variance = cv2.boxFilter(grey * grey, cv2.CV_32F, window) - cv2.boxFilter(grey, cv2.CV_32F, window) ** 2
    width, height = (max(1, round(MIDDLE * side)) for side in (small.width, small.height))
    left, top = (small.width - width) // 2, (small.height - height) // 2
    K = small.K - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]])
    contrast = variance[top : top + height, left : left + width] > MIN_CONTRAST**2
    return replace(small, K=K, width=width, height=height), np.asarray(contrast)
