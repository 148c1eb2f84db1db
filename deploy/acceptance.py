"""Runs a customer's tests, a folder of pytest files that know only HTTP, against the embedded mode or the native mesh.

`python -m deploy.acceptance FOLDER --mode embedded|mesh [pytest arguments]`
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

from deploy.embedded.process import EmbeddedProcess
from deploy.native.mesh import Mesh, Ports
from deploy.secrets import load_or_make

SETTINGS = {"MESHWORK_ALLOWED_PRIVATE_NETWORKS": "127.0.0.1/32"}


@contextmanager
def embedded(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The embedded mode as its own process: its URL and its secrets."""
    secrets = load_or_make(folder / "secrets.env")
    with EmbeddedProcess(folder, {**secrets, **SETTINGS}) as process:
        yield process.url, secrets


@contextmanager
def native_mesh(folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The native mesh on the three real servers: its URL and its secrets."""
    mesh = Mesh(folder, Ports(), SETTINGS)
    try:
        mesh.start()
        yield mesh.api_url, mesh.secrets
    finally:
        mesh.destroy()


MODES = {"embedded": embedded, "mesh": native_mesh}


def run_tests(folder: Path, url: str, secrets: dict[str, str], results: Path, arguments: list[str]) -> int:
    """Runs the tests apart from this project's pytest settings; nothing is written beside them."""
    argv = [sys.executable, "-m", "pytest", str(folder), "-c", os.devnull, "--rootdir", str(folder), "-p", "no:cacheprovider", "-ra"]
    argv += ["--url", url, "--key", secrets["MESHWORK_API_KEY"], "--secret", secrets["MESHWORK_WEBHOOK_SECRET"]]
    argv += ["--durations", "8", f"--junitxml={results}", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MESHWORK_")}
    return subprocess.run(argv, env={**environment, "PYTHONDONTWRITEBYTECODE": "1"}, check=False).returncode


def skipped(results: Path) -> int:
    """How many tests were skipped; a skipped promise is a broken one."""
    suites = ElementTree.parse(results).getroot().iter("testsuite")  # noqa: S314 - written by our own pytest
    return sum(int(suite.get("skipped", 0)) for suite in suites)


def main() -> int:
    """Starts the service, runs the tests, ends the service."""
    parser = argparse.ArgumentParser(prog="python -m deploy.acceptance")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mode", choices=MODES, required=True)
    options, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="meshwork-acceptance-") as scratch:
        Path(scratch).chmod(0o755)  # PostgreSQL's own user must get through
        results = Path(scratch) / "results.xml"
        print(f"acceptance: {options.mode}", flush=True)
        with MODES[options.mode](Path(scratch) / "data") as (url, secrets):
            status = run_tests(options.folder.resolve(), url, secrets, results, rest)
        if status == 0 and skipped(results):
            print(f"{skipped(results)} tests were skipped")
            return 1
        return status


if __name__ == "__main__":
    sys.exit(main())
