"""The embedded mode as a process that is started and ended."""

from pathlib import Path

from deploy.embedded.process import EmbeddedProcess


def test_sigterm_is_a_clean_end(tmp_path: Path) -> None:
    """Workers and webhooks have left, and their folders with them: nothing but compiled kernels stays in the work folder."""
    with EmbeddedProcess(tmp_path, {"MESHWORK_GRACE_S": "5"}) as process:
        assert [path.name for path in (tmp_path / "work").iterdir() if path.name != "kernels"]
    assert [path.name for path in (tmp_path / "work").iterdir() if path.name != "kernels"] == []
    assert "webhooks left" in process.process.tail(100)
