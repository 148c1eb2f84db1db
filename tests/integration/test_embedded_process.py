"""The embedded mode as a process that is started and ended."""

from pathlib import Path

import pytest

from deploy.embedded.process import EmbeddedProcess
from deploy.native.process import ServerFailedError


def test_sigterm_is_a_clean_end(tmp_path: Path) -> None:
    """Workers and webhooks have left, and their folders with them: nothing but compiled kernels stays in the work folder."""
    with EmbeddedProcess(tmp_path, {"MESHWORK_GRACE_S": "5"}) as process:
        assert [path.name for path in (tmp_path / "work").iterdir() if path.name != "kernels"]
    assert [path.name for path in (tmp_path / "work").iterdir() if path.name != "kernels"] == []
    assert "webhooks left" in process.process.tail(100)


def test_a_seal_key_that_seals_nothing_ends_the_start(tmp_path: Path) -> None:
    """Not the first webhook, which would wait forever; and the key is not printed."""
    with pytest.raises(ServerFailedError, match="MESHWORK_SEAL_KEY is no Fernet key") as failed:
        EmbeddedProcess(tmp_path, {"MESHWORK_SEAL_KEY": "one-letter-off"}).start()
    assert "one-letter-off" not in str(failed.value)
