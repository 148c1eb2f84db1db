"""How cameras are spread around an object, from cameras.json."""

from typing import Any

import numpy as np
import pytest

from services.export.coverage import camera_coverage


def looking_at(target: np.ndarray, centre: np.ndarray) -> dict[str, Any]:
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return {"R": R.tolist(), "t": (-R @ centre).tolist()}


def ring(degrees: np.ndarray, height: float = 1.0) -> dict[str, Any]:
    angles = np.radians(degrees)
    centres = np.stack([3 * np.sin(angles), np.full_like(angles, height), 3 * np.cos(angles)], axis=1)
    return {f"{index}.jpg": looking_at(np.zeros(3), centre) for index, centre in enumerate(centres)}


@pytest.mark.parametrize("start, end, count, expected", [(0, 345, 24, 345), (-80, 80, 9, 160), (170, 190, 3, 20)])
def test_the_span_of_a_ring_is_what_was_walked(start: float, end: float, count: int, expected: float) -> None:
    """Also across north, and the widest gap is what is missing."""
    assert camera_coverage(ring(np.linspace(start, end, count)))["azimuth_span_deg"] == pytest.approx(expected, abs=0.1)


def test_a_steep_ring_went_all_around() -> None:
    """A ring 78° above the ground is a ring."""
    assert camera_coverage(ring(np.linspace(0, 345, 24), height=14.1))["azimuth_span_deg"] == pytest.approx(345, abs=0.1)


def test_one_place_has_no_baseline() -> None:
    """Ten times the same camera, or one that moved along its own axis; a ring has one."""
    same = ring(np.zeros(10))
    zoom = {str(index): looking_at(np.zeros(3), np.array([0.0, 0.0, 3.0 + index])) for index in range(5)}
    for cameras in (same, zoom):
        coverage = camera_coverage(cameras)
        assert coverage["direction_span_deg"] < 0.1 and coverage["baseline"] < 0.01
    assert camera_coverage(ring(np.linspace(0, 345, 24)))["baseline"] > 0.5


def test_a_flight_along_parallel_lines_has_a_baseline() -> None:
    """Cameras that look straight down have no azimuth, and that is no fault."""
    down = {"R": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}
    cameras = {str(x): {**down, "t": (-np.array(down["R"]) @ [x, 5.0, 0.0]).tolist()} for x in range(5)}
    coverage = camera_coverage(cameras)
    assert (coverage["azimuth_span_deg"], coverage["direction_span_deg"]) == (0.0, 0.0)
    assert coverage["baseline"] > 0.2
