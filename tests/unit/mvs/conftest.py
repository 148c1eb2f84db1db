"""One small scene for all tests of mvs."""

from pathlib import Path

import pytest

from services.mvs.depth_maps import Scene
from services.mvs.params import MvsParams
from services.mvs.rounds import build_scene
from tests.unit.mvs.small_scene import write_sfm_outputs


@pytest.fixture(scope="session")
def sfm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What sfm hands over for the sphere on the ground."""
    folder = tmp_path_factory.mktemp("sphere") / "sfm"
    write_sfm_outputs(folder)
    return folder


@pytest.fixture()
def scene(sfm_folder: Path, tmp_path: Path) -> Scene:
    """The scene with two levels."""
    return build_scene(sfm_folder, tmp_path, MvsParams(levels=(2, 1)))
