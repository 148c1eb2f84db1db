"""Ingest over one workspace, watched: `python -m tests.security.run_ingest FOLDER` tells reasons, memory and what went where."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from services.ingest.params import IngestParams
from services.ingest.stage import IngestStage
from shared.errors import PermanentError
from shared.runtime.workspace import Workspace

_CHANGES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "shutil.copyfile"}
_STARTS = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system", "socket.connect", "socket.getaddrinfo"}


def watch(allowed: Path) -> list[str]:
    """Whatever changes files elsewhere, starts a program or opens a connection, as it happens."""
    found: list[str] = []

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
                mode is None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            touched = [path] if writes else []
        else:
            touched = [argument for argument in arguments if isinstance(argument, str | bytes | os.PathLike)] if event in _CHANGES else []
        outside = [path for path in touched if isinstance(path, str | bytes | os.PathLike) and not _is_below(path, allowed)]
        if outside or event in _STARTS:
            found.append(f"{event} {outside or arguments}")

    sys.addaudithook(look)
    return found


def _is_below(path: Any, folder: Path) -> bool:
    where = Path(os.fsdecode(path)).resolve()
    return where.is_relative_to(folder) or where == Path("/dev/null")


def main() -> None:
    """One run. `bytes`: how far its peak rose over what the imports above took; what ingest imports only then is counted with the files."""
    folder = Path(sys.argv[1]).resolve()
    before = _peak_bytes()
    found = watch(folder)
    try:
        report = IngestStage().run(Workspace(folder), IngestParams(drop_blurred=False))
    except PermanentError as error:
        report = error.report
    assert report is not None
    reasons: dict[str | None, dict[str, str | None]] = {}
    for verdict in report.images:
        reasons.setdefault(verdict.source, {})[verdict.name] = verdict.reason
    told = {"reasons": reasons.pop(None), "held": reasons, "bytes": _peak_bytes() - before, "found": found}
    print(json.dumps(told))


def _peak_bytes() -> int:
    """Of this program alone: `ru_maxrss` begins with the peak of whoever started it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    main()
