"""Real photographs, which are not part of the repository."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def real_photos() -> Path:
    """Folder of photo sets: MESHWORK_TEST_DATA, or shared/data beside the repository. Under CI a missing one is a failure."""
    folder = Path(os.environ.get("MESHWORK_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        message = f"no photographs in {folder}; set MESHWORK_TEST_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder
