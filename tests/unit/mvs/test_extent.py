"""Thin parts without sparse points are found beyond the box of those points; what is not connected to the object is not."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from services.mvs.depth_maps import Scene
from services.mvs.extent import object_extent
from services.mvs.region import Box, Plane, Region
from services.mvs.rounds import with_whole_object
from tests.unit.mvs.small_scene import MIDDLE, RADIUS

_BOX = Box(np.array([1.0, 2.0, 3.0]), np.eye(3)[[1, 0, 2]], np.array([1.0, 2.0, 1.0]))


def _over(scene: Scene) -> Callable[..., list[object]]:
    """One view after the other."""
    return lambda _name, work, _low, _high: [work(i) for i in range(len(scene.views))]


def _ball(centre: list[float], radius: float) -> np.ndarray:
    directions = np.random.default_rng(1).normal(0, 1, (4000, 3))
    return np.array(centre) + radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def test_the_extent_is_that_of_the_largest_group() -> None:
    """Two overlapping balls are one object; clutter that stands apart does not count, however near to the box's side."""
    body, part, clutter = _ball([1.0, 2.0, 3.0], 0.4), _ball([1.0, 2.5, 3.0], 0.2), _ball([2.8, 1.2, 2.3], 0.15)
    extent = object_extent(_BOX, [body, part, clutter])
    assert extent is not None
    np.testing.assert_allclose(extent[0], [-0.4, -0.2, -0.4], atol=0.01)
    np.testing.assert_allclose(extent[1], [0.7, 0.2, 0.4], atol=0.01)
    assert object_extent(_BOX, []) is None


def test_rough_ground_does_not_stand_clear() -> None:
    """What is less high than a seventh of the box may be ground, whose reach says nothing of the object's."""
    region = Region(True, np.zeros(3), 5.0, Plane(np.array([0.0, 0.0, 1.0]), 2.1), _BOX)
    points = np.array([[1.0, 2.0, 2.3], [1.0, 2.0, 2.5], [9.0, 2.0, 2.5]])
    assert region.stands_clear(points).tolist() == [False, True, False]


def test_a_region_grows_on_the_sides_that_are_touched() -> None:
    """One side touched: that one goes out, and comes back to the object and its margin; the ground's side stays, touched or not."""
    region = Region(True, np.zeros(3), 5.0, Plane(np.array([0.0, 0.0, 1.0]), 2.0), _BOX)
    assert region.looking_beyond(np.array([-0.9, -0.9, -1.0]), np.array([0.9, 0.9, 0.9])) is region
    wider = region.looking_beyond(np.array([-0.9, -0.9, -1.0]), np.array([1.0, 0.9, 0.9]))
    assert wider.box is not None
    np.testing.assert_allclose(wider.box.corners().min(axis=0), _BOX.corners().min(axis=0))
    assert wider.box.corners().max(axis=0)[1] > _BOX.corners().max(axis=0)[1] + 0.5
    tip = wider.box.local(np.array([[1.0, 3.2, 3.0]]))[0] / wider.box.half
    closed = wider.closing_in(_BOX, np.array([-0.5, -0.9, -1.0]), np.array([tip[0], 0.9, 0.9]))
    assert closed.box is not None
    np.testing.assert_allclose(closed.box.corners().min(axis=0), _BOX.corners().min(axis=0))
    assert 3.2 < closed.box.corners().max(axis=0)[1] < 3.4


def test_a_region_with_room_stays(scene: Scene) -> None:
    """The sphere alone does not touch its box, so nothing is evaluated twice."""
    assert with_whole_object(scene, _over(scene)) is scene


def test_a_box_that_cuts_the_sphere_is_grown(scene: Scene) -> None:
    """Whichever side of the object is cut."""
    assert scene.region.box is not None
    cut = scene.region.box.between(np.array([-1.0, -0.4, -1.0]), np.array([1.0, 1.0, 1.0]))
    whole = with_whole_object(replace(scene, region=replace(scene.region, box=cut)), _over(scene))
    directions = np.random.default_rng(2).normal(0, 1, (400, 3))
    sphere = MIDDLE + RADIUS * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    assert whole.region.box is not None and whole.region.box.contains(sphere[sphere[:, 2] > 0.2]).all()
