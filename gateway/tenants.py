"""Who may use this installation: the first tenant by MESHWORK_API_KEY, others by a file that holds their keys as hashes.

    acme:
      rate_limit_per_minute: 600          # requests; left out: MESHWORK_RATE_LIMIT_PER_MINUTE
      max_unfinished_jobs: 200            # left out: MESHWORK_MAX_UNFINISHED_JOBS
      max_streams: 500                    # left out: MESHWORK_MAX_STREAMS
      webhook_secret: whsec_…             # left out: made from MESHWORK_WEBHOOK_SECRET, another one for each tenant
      keys:
        - {id: ci, sha256: 5e88…, scopes: [submit, read], expires_at: 2027-01-01T00:00:00Z}

A key that is no longer in the file, or whose time is over, opens nothing: that is how one is revoked. Two of a tenant are good side by
side: that is how one is rotated. The file is read again when it changes; one that cannot be read changes nothing, and is told in the log.
`python -m deploy.keys` makes keys.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import yaml
from loguru import logger
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gateway.settings import GatewaySettings, WebhookSecrets, split_secrets

FIRST_TENANT = "default"
LOOK_AGAIN_S = 1.0  # a revoked key opens nothing after a second

Scope = Literal["read", "submit", "admin"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Wall = Callable[[], datetime]


class KeyEntry(BaseModel):
    """One key. `read`: look; `submit`: make, retry and cancel jobs; `admin`: everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    expires_at: AwareDatetime | None = None


class TenantEntry(BaseModel):
    """One tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    keys: tuple[KeyEntry, ...] = ()
    webhook_secret: WebhookSecrets | None = None
    rate_limit_per_minute: Annotated[int, Field(ge=0)] | None = None
    max_unfinished_jobs: Annotated[int, Field(ge=0)] | None = None
    max_streams: Annotated[int, Field(ge=0)] | None = None


_ENTRIES = TypeAdapter(dict[Name, TenantEntry], config=ConfigDict(hide_input_in_errors=True))


@dataclass(frozen=True)
class Caller:
    """Whose key it is, and what it opens."""

    tenant: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the key opens what asks for this scope."""
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True)
class _Known:
    digest: bytes
    caller: Caller
    expires_at: datetime | None


class TenantsUnreadable(ValueError):
    """MESHWORK_TENANTS_FILE is not there, or is not what gateway/tenants.py describes."""


class Tenants:
    """Every tenant, as the settings and the file are now. Raises TenantsUnreadable when the file cannot be read at the start."""

    def __init__(
        self, settings: GatewaySettings, clock: Callable[[], float] = time.monotonic, now: Wall = lambda: datetime.now(UTC)
    ) -> None:
        self._settings = settings
        self._path = settings.tenants_file
        self._clock, self._now = clock, now
        self._looked_at, self._version = clock(), _version_of(self._path)
        self._take(_read(self._path) if self._path else {})

    def caller_of(self, key: str) -> Caller | None:
        """Whose key this is; every known hash is compared, each in constant time."""
        self._look_again()
        digest = digest_of(key)
        found = None
        for known in self._known:
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is None or (found.expires_at is not None and found.expires_at <= self._now()):
            return None
        return found.caller

    def rate_limit_of(self, tenant: str) -> int:
        """Requests a minute; 0: no limit."""
        own = self._entry(tenant).rate_limit_per_minute
        return self._settings.rate_limit_per_minute if own is None else own

    def job_quota_of(self, tenant: str) -> int:
        """Unfinished jobs at a time; 0: no limit."""
        own = self._entry(tenant).max_unfinished_jobs
        return self._settings.max_unfinished_jobs if own is None else own

    def max_streams_of(self, tenant: str) -> int:
        """Places for streams of live events at this replica; 0: no limit."""
        own = self._entry(tenant).max_streams
        return self._settings.max_streams if own is None else own

    def webhook_secrets_of(self, tenant: str) -> tuple[str, ...]:
        """What signs the tenant's webhooks, the first one in use. No two tenants share one: who knows it could sign for the other."""
        own = self._entry(tenant).webhook_secret
        if own is not None:
            return split_secrets(own)
        ours = split_secrets(self._settings.webhook_secret)
        return ours if tenant == FIRST_TENANT else tuple(derived_webhook_secret(secret, tenant) for secret in ours)

    def _entry(self, tenant: str) -> TenantEntry:
        self._look_again()
        return self._entries.get(tenant, TenantEntry())

    def _look_again(self) -> None:
        if self._path is None or self._clock() - self._looked_at < LOOK_AGAIN_S:
            return
        self._looked_at = self._clock()
        version = _version_of(self._path)
        if version == self._version:
            return
        try:
            self._take(_read(self._path))
        except TenantsUnreadable as error:
            logger.error("the keys stay as they were: {}", error)
        self._version = version

    def _take(self, entries: Mapping[str, TenantEntry]) -> None:
        everything: frozenset[Scope] = frozenset({"admin"})
        first = [_Known(digest_of(key), Caller(FIRST_TENANT, everything), None) for key in split_secrets(self._settings.api_key)]
        others = [
            _Known(bytes.fromhex(key.sha256), Caller(tenant, key.scopes), key.expires_at)
            for tenant, entry in entries.items()
            for key in entry.keys
        ]
        self._known, self._entries = (*first, *others), dict(entries)


def digest_of(key: str) -> bytes:
    """sha256 of a key as header bytes arrive: of one that no header holds character by character, in UTF-8, as clients send it.

    Keys are 32 random bytes: nobody guesses one from its hash, so none is slow to compute.
    """
    try:
        sent = key.encode("latin-1")
    except UnicodeEncodeError:
        sent = key.encode(errors="surrogatepass")
    return hashlib.sha256(sent).digest()


def derived_webhook_secret(secret: str, tenant: str) -> str:
    """A tenant's webhook secret where the file names none: nobody finds the other secrets from it."""
    digest = hmac.new(secret.encode(), b"meshwork webhook secret of " + tenant.encode(), hashlib.sha256).digest()
    return "whsec_" + base64.b64encode(digest).decode()


def _version_of(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _read(path: Path) -> dict[str, TenantEntry]:
    try:
        entries = _ENTRIES.validate_python(yaml.safe_load(path.read_text()) or {})
    except OSError as error:
        raise TenantsUnreadable(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors(include_input=False)[:5])
        raise TenantsUnreadable(f"{path}: {places}") from None
    except (yaml.YAMLError, ValueError):
        raise TenantsUnreadable(f"{path} is no YAML") from None
    hashes = [key.sha256 for entry in entries.values() for key in entry.keys]
    if len(set(hashes)) < len(hashes):
        raise TenantsUnreadable(f"{path}: a key belongs to two entries")
    return entries
