"""Which photos share a lens, and what is known about it."""

from pathlib import Path

import pytest

from services.sfm.intrinsics import camera_groups
from services.sfm.params import Pinhole, SfmParams, SimpleRadial
from services.sfm.photos import Photo


def photo(width: int = 1600, height: int = 1200, key: str | None = None, focal: float | None = None) -> Photo:
    return Photo("p", Path("p.jpg"), width, height, width, height, focal, key)


def test_photos_of_one_camera_at_one_focal_length_share_intrinsics() -> None:
    """Another size, another camera or another zoom is another group."""
    photos = [photo(key="a"), photo(key="b"), photo(key="a"), photo(1200, 1600, key="a"), photo()]
    assert [group.photos for group in camera_groups(photos, SfmParams())] == [(0, 2), (1,), (3,), (4,)]
    assert len(camera_groups(photos, SfmParams(shared_camera="never"))) == 5
    assert [group.photos for group in camera_groups(photos, SfmParams(shared_camera="always"))] == [(0, 1, 2, 4), (3,)]


def test_exif_is_where_the_focal_length_starts() -> None:
    """The median of the group; without EXIF 1.2 times the longest side, and not as a prior."""
    with_exif, without = camera_groups([photo(key="a", focal=1500.0), photo(key="a", focal=1510.0), photo(key="a"), photo()], SfmParams())
    assert (with_exif.camera.has_prior_focal_length, with_exif.camera.mean_focal_length()) == (True, 1510.0)
    assert (without.camera.has_prior_focal_length, without.camera.mean_focal_length()) == (False, 1920.0)
    assert list(without.camera.params[1:]) == [800.0, 600.0, 0.0]


def test_a_given_camera_is_scaled_and_kept() -> None:
    """In pixels of the upright photo as sent; the working image may be smaller. Distortion does not depend on size."""
    given = Pinhole(model="PINHOLE", params=(3000.0, 3010.0, 1610.0, 1190.0), width=3200, height=2400)
    (group,) = camera_groups([photo(), photo(key="other")], SfmParams(camera=given))
    assert (group.fixed, group.photos) == (True, (0, 1))
    assert list(group.camera.params) == pytest.approx([1500.0, 1505.0, 805.0, 595.0])
    radial = SimpleRadial(model="SIMPLE_RADIAL", params=(3000.0, 1600.0, 1200.0, -0.1), width=3200, height=2400)
    (group,) = camera_groups([photo()], SfmParams(camera=radial))
    assert list(group.camera.params) == pytest.approx([1500.0, 800.0, 600.0, -0.1])


def test_a_given_camera_is_not_forced_on_photos_of_other_proportions() -> None:
    """A portrait photo among landscape ones has its lens found."""
    given = SimpleRadial(model="SIMPLE_RADIAL", params=(1500.0, 800.0, 600.0, 0.0), width=1600, height=1200)
    groups = camera_groups([photo(), photo(1200, 1600), photo(800, 600)], SfmParams(camera=given))
    assert [(group.photos, group.fixed) for group in groups] == [((0,), True), ((1,), False), ((2,), True)]
