"""What must not stand in any log: secrets, and what opens a link or proves a webhook."""

import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

# A link's or presigned link's signature in hex, a webhook's in base64; both are of sha256.
_SIGNATURE = re.compile(r"signature=[0-9a-f]{64}|\bv1,[A-Za-z0-9+/]{43}=", re.IGNORECASE)
_TAIL_CHARACTERS = 16  # who knows so much of a secret may guess the rest


def secrets_in_logs(logs: Path, secrets: Mapping[str, str]) -> list[str]:
    """`sfm-1.log MESHWORK_API_KEY` for every secret (by name) in a log of the folder, and the same for signatures of whatever link."""
    found = []
    for log in sorted(logs.glob("*.log")):
        written = log.read_text(errors="replace")
        text = written + unquote(written)  # as it stands in URLs, too
        found += [f"{log.name} {name}" for name, secret in secrets.items() if secret in text or secret[-_TAIL_CHARACTERS:] in text]
        found += sorted({f"{log.name} {match.group()}" for match in _SIGNATURE.finditer(text)})
    return found
