"""Features and verified matches in a COLMAP database."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from services.sfm.colmap import DEVICE, pycolmap
from services.sfm.features import Features
from services.sfm.intrinsics import CameraGroup
from services.sfm.pair_ranking import Pairs
from services.sfm.photos import Photo

BATCH = 200  # pairs between two words on progress
LINK = 25  # matches that agree: photos that have nothing in common reach 20 by chance
_Kind = pycolmap.TwoViewGeometryConfiguration
FLAT = {int(kind) for kind in (_Kind.PLANAR, _Kind.PANORAMIC, _Kind.PLANAR_OR_PANORAMIC)}
# Threads that match; another one verifies meanwhile. Two that compare descriptors at the same moment disturb each other in pycolmap 4.2
# (its linear algebra): on a busy machine one call in eight hundred lost half of some pair's matches, and said nothing.
ONE_AFTER_THE_OTHER = 1
MAX_TRIALS = 2000  # of RANSAC: enough for the seven points of a pair with 45 % inliers. COLMAP's 10,000 found no further pair in real
# photos, and took half a second for each pair of photos that do not overlap.


def write_database(path: Path, photos: list[Photo], groups: list[CameraGroup], features: list[Features]) -> None:
    """Cameras, images and features. Image ids are indices of `photos` plus one; images are named by their files."""
    database = pycolmap.Database.open(path)
    with pycolmap.DatabaseTransaction(database):
        for group in groups:
            camera_id = database.write_camera(group.camera)
            rig = pycolmap.Rig(rig_id=camera_id)
            rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id))
            database.write_rig(rig, use_rig_id=True)
            for index in group.photos:
                _write_photo(database, index, photos[index], camera_id, features[index])
    database.close()


def _write_photo(database: pycolmap.Database, index: int, photo: Photo, camera_id: int, features: Features) -> None:
    image_id = index + 1
    image = pycolmap.Image(name=photo.file, camera_id=camera_id, image_id=image_id)
    database.write_image(image, use_image_id=True)
    frame = pycolmap.Frame(frame_id=image_id, rig_id=camera_id)
    frame.add_data_id(pycolmap.data_t(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id), image_id))
    database.write_frame(frame, use_frame_id=True)
    database.write_keypoints(image_id, features.keypoints)
    database.write_descriptors(image_id, pycolmap.FeatureDescriptors(pycolmap.FeatureExtractorType.SIFT, features.descriptors))


def match_pairs(
    database: Path, photos: list[Photo], pairs: Pairs, pixel_scale: float, seed: int, progress: Callable[[float], None]
) -> None:
    """Matches and verifies pairs. `pixel_scale`: pixels of the working images per pixel of those that features were found in."""
    matching = pycolmap.FeatureMatchingOptions(num_threads=ONE_AFTER_THE_OTHER)
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    verification.ransac.max_error *= pixel_scale
    verification.ransac.max_num_trials = MAX_TRIALS
    listing = database.with_suffix(".pairs")
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        listing.write_text("".join(f"{photos[i].file} {photos[j].file}\n" for i, j in batch))
        pairing = pycolmap.ImportedPairingOptions(match_list_path=listing)
        pycolmap.match_image_pairs(
            database, matching_options=matching, pairing_options=pairing, verification_options=verification, device=DEVICE
        )
        progress((start + len(batch)) / len(pairs))


def median_movement_px(database: Path) -> float:
    """How far matches that agree lie apart in their two photos, in pixels of those that features were found in; the median of all linked
    pairs' medians, 0 without any."""
    opened = pycolmap.Database.open(database)
    geometries = zip(*opened.read_two_view_geometries(), strict=True)
    agreeing = [(pycolmap.pair_id_to_image_pair(pair), g.inlier_matches) for pair, g in geometries if len(g.inlier_matches) >= LINK]
    places = {i: opened.read_keypoints(i)[:, :2] for i in {i for pair, _ in agreeing for i in pair}}
    opened.close()
    medians = [np.median(np.linalg.norm(places[i][m[:, 0]] - places[j][m[:, 1]], axis=1)) for (i, j), m in agreeing]
    return float(np.median(medians)) if medians else 0.0


def flat_share(database: Path) -> float:
    """Share of the linked pairs whose matches one homography explains, so that they tell nothing of depth; 0 without any."""
    opened = pycolmap.Database.open(database)
    _, geometries = opened.read_two_view_geometries()
    opened.close()
    kinds = [geometry.config for geometry in geometries if len(geometry.inlier_matches) >= LINK]
    return sum(int(kind) in FLAT for kind in kinds) / len(kinds) if kinds else 0.0


def linked_pairs(database: Path) -> Pairs:
    """Pairs of photos, as indices, whose matches agree with one geometry and are too many for chance."""
    opened = pycolmap.Database.open(database)
    ids, inliers = opened.read_two_view_geometry_num_inliers()
    opened.close()
    linked = [pycolmap.pair_id_to_image_pair(pair) for pair, count in zip(ids, inliers, strict=True) if count >= LINK]
    return sorted((min(i, j) - 1, max(i, j) - 1) for i, j in linked)
