"""Secrets of an installation on one machine: made once, kept in a file that only its owner reads."""

import base64
import os
import secrets
from pathlib import Path

from cryptography.fernet import Fernet


def new_secrets() -> dict[str, str]:
    """Fresh values for every secret that the gateway and the services share."""
    return {
        "MESHWORK_API_KEY": secrets.token_urlsafe(32),
        "MESHWORK_WEBHOOK_SECRET": "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(),
        "MESHWORK_LINK_SECRET": secrets.token_urlsafe(32),
        "MESHWORK_SEAL_KEY": Fernet.generate_key().decode(),
    }


def load_or_make(path: Path, more: dict[str, str] | None = None) -> dict[str, str]:
    """The secrets in `path` (NAME=value lines), made when it is missing. Variables of the environment win."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{name}={value}\n" for name, value in {**new_secrets(), **(more or {})}.items()]
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines(lines)
    kept = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {name: os.environ.get(name) or value for name, value in kept.items()}


if __name__ == "__main__":  # python -m deploy.secrets >> .env
    print("\n".join(f"{name}={value}" for name, value in new_secrets().items()))
