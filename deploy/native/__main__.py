"""`python -m deploy.native up|down|scale|logs|status`: the mesh without Docker. `make up` and its siblings call it."""

import argparse
import sys
from pathlib import Path

from deploy.native import supervisor
from deploy.native.mesh import ROOT
from deploy.native.process import ServerFailedError


def main() -> None:
    """Reads the verb and runs it."""
    parser = argparse.ArgumentParser(prog="python -m deploy.native")
    parser.add_argument("--folder", type=Path, default=ROOT / ".mesh", help="data, logs and secrets")
    parser.add_argument("verb", choices=["up", "down", "scale", "logs", "status", "supervise"])
    parser.add_argument("arguments", nargs="*", help="scale: service=replicas …; logs: services")
    options = parser.parse_args()
    folder = supervisor.Folder(options.folder.resolve())
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.path.chmod(0o755)  # PostgreSQL's own user must get through
    verbs = {
        "up": lambda: supervisor.up(folder),
        "down": lambda: supervisor.down(folder),
        "scale": lambda: supervisor.scale(folder, options.arguments),
        "logs": lambda: supervisor.logs(folder, options.arguments),
        "status": lambda: supervisor.print_urls(folder),
        "supervise": lambda: supervisor.supervise(folder),
    }
    verbs[options.verb]()


if __name__ == "__main__":
    try:
        main()
    except (ServerFailedError, ValueError) as error:
        sys.exit(f"meshwork: {error}")
