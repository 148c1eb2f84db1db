"""A key for a tenant: printed once, and its entry for MESHWORK_TENANTS_FILE, which holds the hash only.

python -m deploy.keys acme --id ci --scopes submit read --days 90
"""

import argparse
import secrets
from datetime import UTC, datetime, timedelta

from gateway.tenants import KeyEntry, digest_of


def new_key(name: str, scopes: list[str], days: int | None) -> tuple[str, KeyEntry]:
    """The key, fit for a header and a WebSocket subprotocol, and its entry."""
    key = f"mwk_{secrets.token_urlsafe(32)}"
    expires_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=days) if days else None
    return key, KeyEntry.model_validate({"id": name, "sha256": digest_of(key).hex(), "scopes": scopes, "expires_at": expires_at})


def line_of(entry: KeyEntry) -> str:
    """The entry as it stands in the file."""
    until = f", expires_at: {entry.expires_at.isoformat()}" if entry.expires_at else ""
    return f"    - {{id: {entry.id}, sha256: '{entry.sha256}', scopes: [{', '.join(sorted(entry.scopes))}]{until}}}"


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tenant")
    parser.add_argument("--id", default="main", help="what the tenant calls the key")
    parser.add_argument("--scopes", nargs="+", choices=["read", "submit", "admin"], default=["read", "submit"])
    parser.add_argument("--days", type=int, help="how long it opens; left out: until it is taken out of the file")
    asked = parser.parse_args()
    key, entry = new_key(asked.id, asked.scopes, asked.days)
    print(f"{key}\n\n{asked.tenant}:\n  keys:\n{line_of(entry)}")


if __name__ == "__main__":
    main()
