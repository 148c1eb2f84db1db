"""Compiled kernels: the same bytes from a fresh compilation as from the cache, and windows that are the same in two files."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from services.mvs import consistency_kernels, patchmatch_kernels, refinement_kernels

# Costs of planes near the truth, and where refinement moves them: every function that both kernels call.
_PROGRAM = """
import hashlib, sys
from pathlib import Path
import numpy as np
from services.mvs.depth_maps import _stereo, first_active
from services.mvs.params import MvsParams
from services.mvs.patchmatch_kernels import MIN_DEVIATION, rescore_planes
from services.mvs.refinement_kernels import refine_planes
from services.mvs.rounds import build_scene
from tests.unit.mvs.small_scene import true_inverse_depth
scene = build_scene(Path(sys.argv[1]), Path(sys.argv[2]), MvsParams(levels=(2, 1)))
inverse = true_inverse_depth(scene.level(0, 1))
planes = np.zeros((*inverse.shape, 4), np.float32)
planes[..., 0] = inverse * (1 + 0.002 * np.random.default_rng(3).standard_normal(inverse.shape))
stereo, best = _stereo(scene, 0, 1, first_active(scene, 0, 1), None), np.zeros((*inverse.shape, 2), np.uint8)
rescore_planes(stereo, planes, best, 2, 0.0)
refine_planes(stereo, planes, best, 2, 2, -1.0, MIN_DEVIATION)
print(hashlib.sha256(planes.tobytes() + best.tobytes()).hexdigest())
"""


def test_a_fresh_compilation_computes_the_same_bytes_as_the_cache(sfm_folder: Path, tmp_path: Path) -> None:
    """A worker's first job and its second one give the same model."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    command = [sys.executable, "-c", _PROGRAM, str(sfm_folder), str(tmp_path)]
    fresh, cached = (subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert fresh == cached != ""


def test_what_kernels_call_is_compiled_into_them() -> None:
    """Whatever is private. Else one of several compiled copies is called, and which one depends on the order of loading."""
    for module in (consistency_kernels, patchmatch_kernels, refinement_kernels):
        called = [kernel for name, kernel in vars(module).items() if isinstance(kernel, Dispatcher) and name.startswith("_")]
        assert called and all(kernel.targetoptions.get("forceinline") for kernel in called), module.__name__


@pytest.mark.parametrize("name", ["TAPS", "RADIUS", "FAILED", "ALONE", "_DX", "_DY", "_SPATIAL", "_TONAL"])
def test_a_constant_of_both_files_has_one_value(name: str) -> None:
    """Kept twice, because numba's cache notices a change of the caller's file alone."""
    mine = getattr(refinement_kernels, name if name.startswith("_") else f"_{name}")
    np.testing.assert_array_equal(mine, getattr(patchmatch_kernels, name))


def test_the_window_of_both_files_is_the_same() -> None:
    """Deviation, weights and products agree to rounding on texture; refinement alone refuses what is blank around the centre."""
    grey = np.random.default_rng(2).integers(0, 256, (40, 40), dtype=np.uint8)
    grey[20:, :] = (grey[20:, :] // 8) + 100  # a weak texture
    mine, theirs = np.zeros((2, 2, 25), np.float32)
    for y, x in ((8, 9), (17, 30), (21, 6), (33, 20)):
        one = refinement_kernels._window(grey, x, y, mine[0], mine[1])
        other = patchmatch_kernels._reference_window(grey, x, y, theirs[0], theirs[1])
        assert one == pytest.approx(other, rel=1e-5) and one > patchmatch_kernels.MIN_DEVIATION
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    blank = np.where(np.arange(40) < 21, 90, 200).astype(np.uint8) * np.ones((40, 1), np.uint8)
    assert refinement_kernels._window(blank, 18, 20, mine[0], mine[1]) == 0.0
    assert patchmatch_kernels._reference_window(blank, 18, 20, theirs[0], theirs[1]) > 0.0


def test_random_numbers_fill_their_interval() -> None:
    """Evenly over −1..1, unlike from pixel to pixel and salt to salt: planes are drawn with them."""
    numbers = np.array([[patchmatch_kernels._random(x, y, salt) for x in range(40) for y in range(40)] for salt in (0, 1, 12345)])
    assert np.abs(numbers).max() <= 1
    assert np.histogram(numbers, bins=10, range=(-1, 1))[0].min() > 0.08 * numbers.size
    assert np.abs(np.corrcoef(numbers) - np.eye(3)).max() < 0.1
    assert np.abs(np.corrcoef(numbers[0, :-1], numbers[0, 1:])[0, 1]) < 0.1
