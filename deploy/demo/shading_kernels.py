"""Colour from code: hashed value noise over space, and the shading of one photo. Compiled by numba, rows in parallel."""

import numba as nb
import numpy as np
from numpy.typing import NDArray

nb.config.THREADING_LAYER_PRIORITY = ["omp", "workqueue", "tbb"]  # type: ignore[attr-defined] # asking tbb first warns where an older one is installed
_U = np.uint32


@nb.njit(inline="always")
def _hash(x: int, y: int, z: int, seed: int) -> float:
    """A number in 0..1 for a lattice point: 32-bit mixing after Jenkins and Wang."""
    h = np.uint32(x) * _U(374761393) + np.uint32(y) * _U(668265263) + np.uint32(z) * _U(2147483647) + np.uint32(seed) * _U(974634777)
    h = (h ^ (h >> _U(13))) * _U(1274126177)
    h = h ^ (h >> _U(16))
    return np.float32(h & _U(0xFFFFFF)) * np.float32(1.0 / 16777216.0)


@nb.njit(fastmath=True)
def _value_noise(x: float, y: float, z: float, seed: int) -> float:
    fx, fy, fz = np.floor(x), np.floor(y), np.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    low = (_hash(i, j, k, seed) * (1 - u) + _hash(i + 1, j, k, seed) * u) * (1 - v)
    low += (_hash(i, j + 1, k, seed) * (1 - u) + _hash(i + 1, j + 1, k, seed) * u) * v
    high = (_hash(i, j, k + 1, seed) * (1 - u) + _hash(i + 1, j, k + 1, seed) * u) * (1 - v)
    high += (_hash(i, j + 1, k + 1, seed) * (1 - u) + _hash(i + 1, j + 1, k + 1, seed) * u) * v
    return low * (1 - w) + high * w


@nb.njit(fastmath=True)
def fractal_noise(x: float, y: float, z: float, frequency: float, octaves: int, seed: int) -> float:
    """Noise in about −1..1 whose octaves lose little of their amplitude, so that fine detail stays strong."""
    total, amplitude = 0.0, 1.0
    for octave in range(octaves):
        total += amplitude * (2.0 * _value_noise(x * frequency, y * frequency, z * frequency, seed + octave) - 1.0)
        x, y, z = 0.8 * x - 0.6 * y + 0.37, 0.6 * x + 0.8 * y, z + 0.19
        frequency *= 1.9
        amplitude *= 0.85
    return total * 0.8


# Places in the vector of a photo's settings; `photo_settings` fills it.
_GROUND, _CONTRAST, _GLOSS, _SCALE, _GAIN, _DISC, _COSINE, _SINE = range(8)
_HIGHLIGHT, _SHEEN = 60.0, 10.0  # exponents of a glossy surface's sharp and broad reflection of the light


def photo_settings(
    ground_radius: float, contrast: float, gloss: float, texture_scale: float, gain: float, disc_radius: float, spin: float
) -> NDArray[np.float64]:
    """The settings of `shade_photo` as it wants them.

    `ground_radius`: metres, 0: no ground; `contrast` of the object's texture, 1: rich; `gloss`: strength of highlights;
    `texture_scale`: finer texture above 1; `gain`: linear exposure; `disc_radius`: metres of ground that stay with the object,
    `spin`: radians by which everything beyond it is turned about z against the object (a turntable; infinite radius: none).
    """
    return np.array([ground_radius, contrast, gloss, texture_scale, gain, disc_radius, np.cos(spin), np.sin(spin)])


@nb.njit(fastmath=True)
def _object_albedo(x: float, y: float, z: float, contrast: float, colour: NDArray[np.float32]) -> None:
    patches = fractal_noise(x, y, z, 6.0, 3, 11)
    grain = fractal_noise(x, y, z, 25.0, 5, 29)
    mix = 1.0 / (1.0 + np.exp(-6.0 * contrast * patches))
    level = 0.34 * np.exp(0.95 * contrast * grain)
    colour[0] = level * (1.45 * mix + 0.55 * (1 - mix))
    colour[1] = level * (0.95 * mix + 0.85 * (1 - mix))
    colour[2] = level * (0.45 * mix + 1.25 * (1 - mix))


@nb.njit(fastmath=True, error_model="numpy")
def _highlight(dx: float, dy: float, dz: float, nx: float, ny: float, nz: float, light: NDArray[np.float64]) -> float:
    """Blinn's reflection of the light at a unit normal, seen along (dx, dy, dz)."""
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    hx, hy, hz = light[0] - dx / length, light[1] - dy / length, light[2] - dz / length
    cosine = max(0.0, (nx * hx + ny * hy + nz * hz) / np.sqrt(hx * hx + hy * hy + hz * hz))
    return cosine**_HIGHLIGHT + 0.25 * cosine**_SHEEN


@nb.njit(fastmath=True, error_model="numpy")
def _ground_colour(x: float, y: float, half_extent: float, ground: NDArray[np.float32], colour: NDArray[np.float32]) -> None:
    """The ground's texture at (x, y) metres, between its texels."""
    gx = (x + half_extent) / (2 * half_extent) * ground.shape[1] - 0.5
    gy = (y + half_extent) / (2 * half_extent) * ground.shape[0] - 0.5
    i, j = min(max(int(gx), 0), ground.shape[1] - 2), min(max(int(gy), 0), ground.shape[0] - 2)
    a, b = gx - i, gy - j
    w00, w10, w01, w11 = (1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b
    for channel in range(3):
        near = w00 * ground[j, i, channel] + w10 * ground[j, i + 1, channel]
        colour[channel] = near + w01 * ground[j + 1, i, channel] + w11 * ground[j + 1, i + 1, channel]


@nb.njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def ground_texture(size: int, half_extent: float) -> NDArray[np.float32]:
    """Linear albedo (size, size, 3) of the ground over −half_extent..half_extent metres in x (columns) and y (rows)."""
    texture = np.empty((size, size, 3), np.float32)
    for row in nb.prange(size):
        for column in range(size):
            x = (column + 0.5) / size * 2 * half_extent - half_extent
            y = (row + 0.5) / size * 2 * half_extent - half_extent
            grain = fractal_noise(x, y, 0.5, 22.0, 6, 71)
            tint = fractal_noise(x, y, 0.5, 4.0, 2, 97)
            level = 0.28 * np.exp(0.8 * grain)
            texture[row, column, 0] = level * (0.85 + 0.25 * tint)
            texture[row, column, 1] = level * (0.95 - 0.10 * tint)
            texture[row, column, 2] = level * (0.90 - 0.30 * tint)
    return texture


@nb.njit(parallel=True, fastmath=True, error_model="numpy", cache=True)
def shade_photo(
    found: tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.float32]],
    window: tuple[int, int, int, int],
    mesh: tuple[NDArray[np.int32], NDArray[np.float32], int],
    camera: NDArray[np.float64],
    size: tuple[int, int],
    ground: NDArray[np.float32],
    settings: NDArray[np.float64],
    light: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """One photo, 2×2 rays per pixel averaged in linear light; sRGB (height, width, 3).

    `found`: for each ray through `window` (x0, y0, x1, y1; in half pixels) the distance along it, unnormalised (camera z = 1),
    infinite where it meets nothing; the face there; the weights h×w×2 of its corners 1 and 2. `mesh`: triangles m×3, unit normals
    n×3 of the vertices, and how many faces are the object's: later ones are the surroundings. `camera`: rows R (world→camera), then
    the centre, then (f, cx, cy); `settings`: of `photo_settings`; `light`: unit, towards the light.
    A long kernel: calls per ray would cost more than they save here.
    """
    width, height = size
    hits, faces, weights = found
    triangles, normals, object_faces = mesh
    photo = np.empty((height, width, 3), np.uint8)
    x0, y0, x1, y1 = window
    focal, cx, cy = camera[4]
    ground_radius, disc, cosine, sine = settings[_GROUND], settings[_DISC], settings[_COSINE], settings[_SINE]
    scale, gloss = settings[_SCALE], settings[_GLOSS]
    for row in nb.prange(height):
        colour = np.empty(3, np.float32)
        for column in range(width):
            red, green, blue = 0.0, 0.0, 0.0
            for sub in range(4):
                sx, sy = 2 * column + (sub & 1), 2 * row + (sub >> 1)
                u, v = ((sx + 0.5) / 2 - cx) / focal, ((sy + 0.5) / 2 - cy) / focal
                dx = camera[0, 0] * u + camera[1, 0] * v + camera[2, 0]
                dy = camera[0, 1] * u + camera[1, 1] * v + camera[2, 1]
                dz = camera[0, 2] * u + camera[1, 2] * v + camera[2, 2]
                t = hits[sy - y0, sx - x0] if x0 <= sx < x1 and y0 <= sy < y1 else np.float32(np.inf)
                ground_t = -camera[3, 2] / dz if dz < -1e-6 else 1e9
                px, py = camera[3, 0] + ground_t * dx, camera[3, 1] + ground_t * dy
                if t < 1e9:
                    face = faces[sy - y0, sx - x0]
                    b, c = weights[sy - y0, sx - x0, 0], weights[sy - y0, sx - x0, 1]
                    i0, i1, i2 = triangles[face, 0], triangles[face, 1], triangles[face, 2]
                    nx = normals[i0, 0] * (1 - b - c) + normals[i1, 0] * b + normals[i2, 0] * c
                    ny = normals[i0, 1] * (1 - b - c) + normals[i1, 1] * b + normals[i2, 1] * c
                    nz = normals[i0, 2] * (1 - b - c) + normals[i1, 2] * b + normals[i2, 2] * c
                    x, y, z = camera[3, 0] + t * dx, camera[3, 1] + t * dy, camera[3, 2] + t * dz
                    if face < object_faces:
                        _object_albedo(x * scale, y * scale, z * scale, settings[_CONTRAST], colour)
                    else:
                        _object_albedo(0.7 * x + 9.3, 0.7 * y - 5.1, 0.7 * z + 3.7, 1.0, colour)
                    lit = 0.55 + 0.15 * nz + 0.5 * max(0.0, nx * light[0] + ny * light[1] + nz * light[2])
                    shine = gloss * _highlight(dx, dy, dz, nx, ny, nz, light) if gloss > 0 and face < object_faces else 0.0
                    red, green, blue = red + lit * colour[0] + shine, green + lit * colour[1] + shine, blue + lit * colour[2] + shine
                elif px * px + py * py < ground_radius * ground_radius:
                    if px * px + py * py >= disc * disc:
                        px, py = cosine * px - sine * py, sine * px + cosine * py
                    _ground_colour(px, py, ground_radius, ground, colour)
                    red, green, blue = red + colour[0], green + colour[1], blue + colour[2]
                elif disc < 1e9:
                    length = np.sqrt(dx * dx + dy * dy + dz * dz)
                    qx, qy, qz = (cosine * dx - sine * dy) / length, (sine * dx + cosine * dy) / length, dz / length
                    level = 0.4 * np.exp(0.6 * fractal_noise(qx, qy, qz, 14.0, 5, 53))
                    red, green, blue = red + level, green + 0.95 * level, blue + 0.85 * level
                else:
                    red, green, blue = red + 0.62, green + 0.64, blue + 0.66
            colour[0], colour[1], colour[2] = red / 4, green / 4, blue / 4
            for channel in range(3):
                value = min(colour[channel] * np.float32(settings[_GAIN]), np.float32(1.0))
                encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
                photo[row, column, channel] = np.uint8(255.0 * encoded + 0.5)
    return photo
