"""Photographs for the tests of this folder."""

from tests.unit.sfm.photographs import real_photos

__all__ = ["real_photos"]
