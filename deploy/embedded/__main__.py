"""`python -m deploy.embedded --port 8000 --data folder`: Meshwork in the foreground, with nothing beside it."""

import argparse
import asyncio
from pathlib import Path

from deploy.embedded.service import prepare_environment, serve


def main() -> None:
    """Reads port and folder, says where everything is, serves."""
    parser = argparse.ArgumentParser(prog="python -m deploy.embedded")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data", type=Path, default=Path(".meshwork"), help="database, files and secrets")
    options = parser.parse_args()
    data = options.data.resolve()
    prepare_environment(data, options.port)
    print(
        f"API      http://127.0.0.1:{options.port}/api/v1\ndocs     http://127.0.0.1:{options.port}/docs\nsecrets  {data / 'secrets.env'}",
        flush=True,
    )
    asyncio.run(serve(data))


if __name__ == "__main__":
    main()
