"""What the parts of a shared reconstruction hand each other, as files: features of photos, chosen pairs, and matches that agree.

Nothing is rounded: whoever computes in one go and whoever shares the work gets the same bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.sfm.colmap import pycolmap
from services.sfm.features import Features
from services.sfm.pair_ranking import Pairs, largest

PAIRS = "pairs.npy"
MATCHES = "matches.npz"
_MODELS = ("E", "F", "H")  # of a pair, 3×3 each; which of them there are depends on its geometry


@dataclass(frozen=True)
class Kind:
    """A share of a photo's features that one file holds."""

    name: str

    @property
    def of_all(self) -> str:
        """The pattern that the files of all photos match."""
        return f"{self.name}_*"

    def file(self, index: int) -> str:
        """What a photo's file is called among a part's outputs."""
        return f"{self.name}_{index:04d}.npz"


KEYPOINTS, DESCRIPTORS = Kind("keypoints"), Kind("descriptors")  # apart, since mapping needs no descriptors
LARGEST = Kind("largest")  # what a quick look compares: an eighth


def write_features(features: Features, index: int, folder: Path) -> None:
    """All three kinds of a photo's files."""
    few = largest(features)
    np.savez(folder / KEYPOINTS.file(index), allow_pickle=False, keypoints=features.keypoints, capped=np.array(features.capped))
    np.savez(folder / DESCRIPTORS.file(index), allow_pickle=False, descriptors=features.descriptors)
    np.savez(folder / LARGEST.file(index), allow_pickle=False, keypoints=few.keypoints, descriptors=few.descriptors)


def read_features(index: int, folder: Path) -> Features:
    """All of a photo's."""
    with np.load(folder / DESCRIPTORS.file(index)) as stored:
        descriptors = stored["descriptors"]
    places = read_keypoints(index, folder)
    return Features(places.keypoints, descriptors, places.capped)


def read_keypoints(index: int, folder: Path) -> Features:
    """All of a photo's, without descriptors."""
    with np.load(folder / KEYPOINTS.file(index)) as stored:
        return Features(stored["keypoints"], np.zeros((0, 128), np.uint8), bool(stored["capped"]))


def read_largest(index: int, folder: Path) -> Features:
    """Those that a quick look compares."""
    with np.load(folder / LARGEST.file(index)) as stored:
        return Features(stored["keypoints"], stored["descriptors"], False)


def write_pairs(pairs: Pairs, folder: Path) -> None:
    """Pairs of indices, n×2."""
    np.save(folder / PAIRS, np.array(pairs, np.int32).reshape(-1, 2))


def read_pairs(folder: Path) -> Pairs:
    """In the order that they were written in."""
    return [(i, j) for i, j in np.load(folder / PAIRS).tolist()]


def write_matches(database: Path, folder: Path) -> None:
    """The geometries of all verified pairs of a database, with the matches that agree: indices of features, which 16 bits hold."""
    opened = pycolmap.Database.open(database)
    ids, geometries = opened.read_two_view_geometries()
    opened.close()
    matches = [geometry.inlier_matches for geometry in geometries]
    np.savez(
        folder / MATCHES,
        allow_pickle=False,
        images=np.array([pycolmap.pair_id_to_image_pair(pair) for pair in ids], np.int32).reshape(-1, 2),
        configs=np.array([int(geometry.config) for geometry in geometries], np.uint8),
        counts=np.array([len(of_pair) for of_pair in matches], np.int32),
        matches=np.concatenate([np.zeros((0, 2), np.uint16), *matches]).astype(np.uint16),
        models=np.array([[_or_nothing(getattr(geometry, name)) for name in _MODELS] for geometry in geometries]).reshape(-1, 3, 3, 3),
    )


def add_matches(database: pycolmap.Database, folder: Path) -> None:
    """Puts what `write_matches` wrote into another database with the same photos."""
    with np.load(folder / MATCHES) as stored, pycolmap.DatabaseTransaction(database):
        matches = np.split(stored["matches"].astype(np.uint32), np.cumsum(stored["counts"]))[:-1]
        for (i, j), config, models, of_pair in zip(stored["images"].tolist(), stored["configs"], stored["models"], matches, strict=True):
            geometry = pycolmap.TwoViewGeometry()
            geometry.config, geometry.inlier_matches = pycolmap.TwoViewGeometryConfiguration(int(config)), of_pair
            for name, model in zip(_MODELS, models, strict=True):
                if not np.isnan(model).any():
                    setattr(geometry, name, model)
            database.write_two_view_geometry(i, j, geometry)


def _or_nothing(model: NDArray[np.float64] | None) -> NDArray[np.float64]:
    return np.full((3, 3), np.nan) if model is None else model
