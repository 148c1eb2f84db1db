"""The embedded mode as a child process, for whoever drives it over HTTP: the demo, the acceptance tests, end-to-end tests."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from deploy.native.process import Process, free_port, is_ready

ROOT = Path(__file__).resolve().parents[2]


class EmbeddedProcess:
    """`with EmbeddedProcess(folder, settings) as service: service.url`"""

    def __init__(self, folder: Path, environment: Mapping[str, str], port: int = 0) -> None:
        self.folder, self.port = folder, port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "deploy.embedded", "--port", str(self.port), "--data", str(folder)]
        self.process = Process(argv, folder / "meshwork.log", environment, ROOT)

    def start(self) -> None:
        """Starts it; returns when it is ready."""
        self.process.start()
        self.process.wait_ready(self.is_ready)

    def is_ready(self) -> bool:
        """Whether every dependency is there and every worker listens."""
        return is_ready(self.url)

    def stop(self) -> None:
        """Ends it as Ctrl-C would."""
        self.process.stop()

    def __enter__(self) -> "EmbeddedProcess":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
