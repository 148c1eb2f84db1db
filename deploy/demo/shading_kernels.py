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


@nb.njit(fastmath=True)
def _object_albedo(x: float, y: float, z: float, colour: NDArray[np.float32]) -> None:
    patches = fractal_noise(x, y, z, 6.0, 3, 11)
    grain = fractal_noise(x, y, z, 25.0, 5, 29)
    mix = 1.0 / (1.0 + np.exp(-6.0 * patches))
    level = 0.34 * np.exp(0.95 * grain)
    colour[0] = level * (1.45 * mix + 0.55 * (1 - mix))
    colour[1] = level * (0.95 * mix + 0.85 * (1 - mix))
    colour[2] = level * (0.45 * mix + 1.25 * (1 - mix))


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
    hits: NDArray[np.float32],
    hit_normals: NDArray[np.float32],
    window: tuple[int, int, int, int],
    camera: NDArray[np.float64],
    size: tuple[int, int],
    ground: NDArray[np.float32],
    half_extent: float,
    light: NDArray[np.float64],
) -> NDArray[np.uint8]:
    """One photo, 2×2 rays per pixel averaged in linear light; sRGB (height, width, 3).

    `hits`: distance along each unnormalised ray (camera z = 1) inside `window` (x0, y0, x1, y1; in half pixels), −1 where it
    misses the object; `hit_normals`: unit normals there; `camera`: rows R (world→camera), then the centre, then (f, cx, cy);
    `light`: unit, towards the light.
    A long kernel: calls per ray would cost more than they save here.
    """
    width, height = size
    photo = np.empty((height, width, 3), np.uint8)
    x0, y0, x1, y1 = window
    focal, cx, cy = camera[4]
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
                if x0 <= sx < x1 and y0 <= sy < y1 and hits[sy - y0, sx - x0] > 0:
                    t = hits[sy - y0, sx - x0]
                    normal = hit_normals[sy - y0, sx - x0]
                    _object_albedo(camera[3, 0] + t * dx, camera[3, 1] + t * dy, camera[3, 2] + t * dz, colour)
                    lit = 0.55 + 0.15 * normal[2] + 0.5 * max(0.0, normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2])
                    red, green, blue = red + lit * colour[0], green + lit * colour[1], blue + lit * colour[2]
                    continue
                t = -camera[3, 2] / dz if dz < -1e-6 else 1e9
                px, py = camera[3, 0] + t * dx, camera[3, 1] + t * dy
                if px * px + py * py < half_extent * half_extent:
                    gx = (px + half_extent) / (2 * half_extent) * ground.shape[1] - 0.5
                    gy = (py + half_extent) / (2 * half_extent) * ground.shape[0] - 0.5
                    i, j = min(max(int(gx), 0), ground.shape[1] - 2), min(max(int(gy), 0), ground.shape[0] - 2)
                    a, b = gx - i, gy - j
                    w00, w10, w01, w11 = (1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b
                    red += w00 * ground[j, i, 0] + w10 * ground[j, i + 1, 0] + w01 * ground[j + 1, i, 0] + w11 * ground[j + 1, i + 1, 0]
                    green += w00 * ground[j, i, 1] + w10 * ground[j, i + 1, 1] + w01 * ground[j + 1, i, 1] + w11 * ground[j + 1, i + 1, 1]
                    blue += w00 * ground[j, i, 2] + w10 * ground[j, i + 1, 2] + w01 * ground[j + 1, i, 2] + w11 * ground[j + 1, i + 1, 2]
                else:
                    red, green, blue = red + 0.62, green + 0.64, blue + 0.66
            colour[0], colour[1], colour[2] = red / 4, green / 4, blue / 4
            for channel in range(3):
                value = min(colour[channel], np.float32(1.0))
                encoded = 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
                photo[row, column, channel] = np.uint8(255.0 * encoded + 0.5)
    return photo
