"""Asks this container's own process whether it is ready; exit status 1 when it is not."""

import os
import pathlib
import sys
import urllib.request

is_gateway = pathlib.Path("/app/module").read_text().strip() == "gateway"
port = os.environ["MESHWORK_PORT" if is_gateway else "MESHWORK_HEALTH_PORT"]
try:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=4) as answer:
        sys.exit(answer.status != 200)
except OSError:
    sys.exit(1)
