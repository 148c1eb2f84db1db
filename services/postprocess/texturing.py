"""Colours for points of the surface from the photos that see them best: depth-tested, weighed, levelled, blended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from services.postprocess.atlas import Float32, Texels, locate_texels, texel_density
from services.postprocess.back_projection import sharpened
from services.postprocess.capture import Bytes, Camera, Floats
from services.postprocess.colour import linear_table, to_bytes
from services.postprocess.exposure import solve_gains
from services.postprocess.padding import pad, spread_over_unseen
from services.postprocess.surface import Mesh
from services.postprocess.texel_kernels import blend, rate_view
from services.postprocess.threads import in_threads
from services.postprocess.visibility import RayCaster, view_of

SPARE_VIEWS = 2  # candidates kept beyond those that are blended: they show which view is wrong
POWER = 1.0
TEXELS_PER_PIXEL = 1.0  # along a photo's side, at least, where the limit allows it
UTILISATION = 0.5  # share of an atlas that charts cover
SMALLEST_SIZE = 256
BLOCK = 1 << 20  # texels that are converted at a time, in double precision
OUTLIER = 0.5  # of the median's brightness


@dataclass(frozen=True)
class Candidates:
    """The best views of n points, best first: scores n×k (0: none), photo n×k, colours n×k×3 (256 × sRGB)."""

    scores: NDArray[np.float32]
    views: NDArray[np.uint16]
    colours: NDArray[np.uint16]

    def blended(self, gains: Floats, best: int) -> tuple[Float32, NDArray[np.bool_]]:
        """Linear colours n×3, and which points any photo saw."""
        colours, seen = blend(self.scores, self.views, self.colours, gains, linear_table(), best, POWER, OUTLIER)
        return colours, seen

    def first(self, count: int) -> "Candidates":
        """Those of the first points."""
        return Candidates(self.scores[:count], self.views[:count], self.colours[:count])


@dataclass(frozen=True)
class Texture:
    """The texture, and what is known about it."""

    pixels: Bytes  # size×size×3
    seen: float  # share of the texels that any photo saw
    density: float  # texels per world unit
    gains: Floats  # photos×3


def fitting_size(mesh: Mesh, cameras: Sequence[Camera], limit: int) -> int:
    """Side of the texture, pixels: the least power of two that keeps what the median photo resolves, at most `limit`."""
    origin = mesh.vertices.mean(0)
    wanted = TEXELS_PER_PIXEL * median_resolution(cameras, origin) * np.sqrt(mesh.areas().sum() / UTILISATION)
    exponent = int(np.ceil(np.log2(max(float(wanted), 1.0))))
    return min(limit, max(SMALLEST_SIZE, 1 << exponent))


def collect_views(
    points: Float32,
    normals: Float32,
    origin: Floats,
    cameras: Sequence[Camera],
    caster: RayCaster,
    keep: int,
    spacing: float,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Candidates:
    """The `keep` best views of each point (n×3 from `origin`, world axes, with unit normals n×3).

    `spacing`: distance between points (world), which photos are not sampled finer than.
    """
    count = len(points)
    found = Candidates(np.zeros((count, keep), np.float32), np.zeros((count, keep), np.uint16), np.zeros((count, keep, 3), np.uint16))
    photos = useful_photos(cameras, origin, spacing)
    reference = median_resolution(photos, origin)
    sharpness = relative_sharpness(photos)
    for i, (camera, photo) in enumerate(zip(photos, in_threads(lambda camera: camera.photo(), photos), strict=True)):
        view = view_of(caster, camera)
        pose = (camera.R, camera.t + camera.R @ origin, camera.K)
        rate_view(
            i, points, normals, *pose, view.depth, view.edge, photo, reference, sharpness[i], found.scores, found.views, found.colours
        )
        progress((i + 1) / len(photos))
    return found


def paint(
    mesh: Mesh,
    normals: Floats,
    uv: Float32,
    size: int,
    cameras: Sequence[Camera],
    best: int,
    seed: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> Texture:
    """The texture of a mesh (`normals` n×3 of its vertices, `uv` m×3×2 of its corners) from all photos."""
    texels = locate_texels(uv, size)
    count, density = len(texels.index), texel_density(mesh, uv, size)
    origin = mesh.vertices.mean(0)  # single precision holds what is near zero
    points = _with_vertices(texels, mesh, mesh.vertices - origin)
    found = collect_views(
        points, _with_vertices(texels, mesh, normals), origin, cameras, RayCaster(mesh), best + SPARE_VIEWS, 1 / density, progress
    )
    gains = solve_gains(found.scores, found.views, found.colours, len(cameras), linear_table(), seed)
    colours, seen = found.blended(gains, best)
    photos = useful_photos(cameras, origin, 1 / density)
    spacing_px = median_resolution(photos, origin) / density
    colours[:count] = sharpened(colours[:count], points[:count], origin, found.first(count), gains, photos, spacing_px)
    pixels = _fill(texels, colours, seen, mesh, size)
    return Texture(pixels, float(seen[:count].mean()), density, gains)


def _with_vertices(texels: Texels, mesh: Mesh, values: Floats) -> Float32:
    """Values n×c of vertices at the texels and, after them, at the vertices themselves."""
    return np.concatenate([texels.on(mesh.faces, values), values.astype(np.float32)])


def _fill(texels: Texels, colours: Float32, seen: NDArray[np.bool_], mesh: Mesh, size: int) -> Bytes:
    """Texture from the colours of texels and, behind them, vertices; unseen texels take what their vertices' neighbours have."""
    count = len(texels.index)
    of_vertices = spread_over_unseen(colours[count:], seen[count:], mesh.faces)
    unseen = ~seen[:count]
    hidden = Texels(texels.index[unseen], texels.face[unseen], texels.weights[unseen])
    colours[:count][unseen] = hidden.on(mesh.faces, of_vertices)
    pixels, covered = np.zeros((size * size, 3), np.uint8), np.zeros(size * size, bool)
    for start in range(0, count, BLOCK):
        block = slice(start, min(start + BLOCK, count))
        pixels[texels.index[block]] = to_bytes(colours[block])
    covered[texels.index] = True
    return pad(pixels.reshape(size, size, 3), covered.reshape(size, size))


def relative_sharpness(cameras: Sequence[Camera]) -> Floats:
    """Weight of each photo by how much fine detail it holds against the median photo, within 0.4 to 1.25."""

    def energy_of(camera: Camera) -> float:
        grey = cv2.cvtColor(camera.scaled_to(800).photo(), cv2.COLOR_RGB2GRAY)
        return float(np.abs(cv2.Laplacian(grey, cv2.CV_32F)).mean())

    energy = list(in_threads(energy_of, cameras))
    return np.clip(np.array(energy) / max(float(np.median(energy)), 1e-6), 0.4, 1.25)


def useful_photos(cameras: Sequence[Camera], point: Floats, spacing: float) -> list[Camera]:
    """The cameras at the sizes at which photos are sampled for points this far apart (world) around `point`."""
    return [camera.scaled_to(_useful_px(camera, point, spacing)) for camera in cameras]


def median_resolution(cameras: Sequence[Camera], point: Floats) -> float:
    """Pixels per world unit where `point` is."""
    return float(np.median([camera.K[0, 0] / _depth(camera, point) for camera in cameras]))


def _depth(camera: Camera, point: Floats) -> float:
    return max(float(camera.R[2] @ point + camera.t[2]), 1e-6 * float(np.linalg.norm(camera.centre - point)) + 1e-12)


def _useful_px(camera: Camera, point: Floats, spacing: float) -> int:
    """Longest side at which a pixel is about as large as the spacing between points: finer photos would alias."""
    factor = _depth(camera, point) / float(camera.K[0, 0]) / max(spacing, 1e-12)
    longest = max(camera.width, camera.height)
    return longest if factor > 0.7 else max(64, round(longest * factor / 0.7))
