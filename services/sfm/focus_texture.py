"""Whether the thing that the cameras walked around has texture, and texture that stays in place.

Polished metal, glass, gloss and things that move show texture that is elsewhere in the next photo: features are found there and
nothing comes of them, while those around it become points. Cameras are placed by the surroundings, and the object has no surface.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from services.sfm.colmap import pycolmap
from shared.contracts.manifest import Warning
from shared.photo_names import listed

Floats = NDArray[np.float64]

FOCUS_RADIUS = 0.12  # of the photo's longest side: well inside an object that fills a fifth of the photo
_LEAST_TURN_DEG = 60.0  # between the two optical axes that differ most; less is no walk around anything
_LEAST_FEATURES = 20  # of a photo, in the focus and outside: rates of fewer are chance

# Median over the photos of the share of features that became points, in the focus beside elsewhere: 0.9 to 1.9 on real and rendered
# captures of matt things, below 0.05 on a mirror.
MIRROR_RATIO = 0.3
PLAIN_RATIO = 0.1  # of the density of features elsewhere


@dataclass(frozen=True)
class Focus:
    """What one photo shows near the point that all cameras look at, beside elsewhere in it.

    `density`: ratio of features per area. `placed`: ratio of the shares of features that became points; None where there are too few.
    """

    image_id: int
    density: float
    placed: float | None


def focus_warnings(model: pycolmap.Reconstruction, names: Sequence[str]) -> list[Warning]:
    """`names[i - 1]` is the photo of image id i."""
    focuses = photo_focuses(model)
    placed = [focus.placed for focus in focuses if focus.placed is not None]
    plain = [names[focus.image_id - 1] for focus in focuses if focus.density < PLAIN_RATIO]
    if len(placed) > len(focuses) / 2 and median(placed) < MIRROR_RATIO:
        bad = [names[focus.image_id - 1] for focus in focuses if focus.placed is not None and focus.placed < MIRROR_RATIO]
        message = f"What the cameras walk around looks different from every side: mirror-like, transparent, or moving: {listed(bad)}."
        hint = "Dull it with chalk or scanning spray; use diffuse light and a polarising filter on lamp and lens; let nothing move."
        return [Warning(code="MIRROR_LIKE", message=message, hint=hint, photos=tuple(bad))]
    if len(plain) > len(focuses) / 2:
        message = f"What the cameras walk around has hardly any texture, unlike its surroundings: {listed(plain)}."
        hint = "Give it texture: dust it with chalk or speckled spray, or project a pattern that stays in place; use raking light."
        return [Warning(code="WEAK_TEXTURE", message=message, hint=hint, photos=tuple(plain))]
    return []


def photo_focuses(model: pycolmap.Reconstruction) -> list[Focus]:
    """One per photo that sees the point which all cameras look at; none where they do not look at one thing from several sides."""
    ids = sorted(model.reg_image_ids())
    poses = [model.image(i).cam_from_world() for i in ids]
    axes = np.array([pose.rotation.matrix()[2] for pose in poses])
    centres = np.array([-pose.rotation.matrix().T @ pose.translation for pose in poses])
    if len(ids) < 3 or (axes @ axes.T).min() > np.cos(np.radians(_LEAST_TURN_DEG)):
        return []
    target = _nearest_to_lines(centres, axes)
    return [focus for i in ids if (focus := _focus(model, i, target)) is not None]


def _nearest_to_lines(centres: Floats, directions: Floats) -> Floats:
    """The point with the least squared distance to all lines; n×3 points on them and n×3 unit directions."""
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    return np.asarray(np.linalg.lstsq(across.sum(0), (across @ centres[:, :, None]).sum(0)[:, 0])[0])


def _focus(model: pycolmap.Reconstruction, image_id: int, target: Floats) -> Focus | None:
    image = model.image(image_id)
    camera = model.camera(image.camera_id)
    seen = image.cam_from_world() * target
    points = image.points2D
    if seen[2] <= 0 or len(points) == 0:
        return None
    radius = FOCUS_RADIUS * max(camera.width, camera.height)
    positions = np.array([point.xy for point in points])
    placed = np.array([point.has_point3D() for point in points], bool)
    inside = np.linalg.norm(positions - np.asarray(camera.img_from_cam(seen[None]))[0], axis=1) < radius
    area = np.pi * radius**2
    elsewhere = max(int((~inside).sum()), 1)
    density = (inside.sum() / area) / (elsewhere / (camera.width * camera.height - area))
    if min(inside.sum(), elsewhere) < _LEAST_FEATURES or not placed[~inside].any():
        return Focus(image_id, float(density), None)
    return Focus(image_id, float(density), float(placed[inside].mean() / placed[~inside].mean()))
