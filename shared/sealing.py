"""Secrets that travel in messages, sealed: the broker's operators can read a message, but not a tenant's webhook secrets."""

from collections.abc import Iterable

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shared.errors import MeshworkError


class SealError(MeshworkError):
    """Secrets cannot be sealed or unsealed: MESHWORK_SEAL_KEY is missing, is no Fernet key, or is not the one they were sealed with."""


def new_seal_key() -> str:
    """A fresh random key for MESHWORK_SEAL_KEY."""
    return Fernet.generate_key().decode()


def seal(secrets: str | Iterable[str], seal_key: str) -> str:
    """A token that holds one or more secrets (one string may hold several, comma-separated). The first of the comma-separated keys seals.

    token = seal("whsec_new,whsec_old", settings.seal_key.get_secret_value())
    """
    joined = secrets if isinstance(secrets, str) else ",".join(secrets)
    return _box(seal_key).encrypt(joined.encode()).decode()


def unseal(token: str, seal_key: str) -> tuple[str, ...]:
    """The secrets in a token, in their order; every one of the comma-separated keys is tried. Raises SealError."""
    try:
        joined = _box(seal_key).decrypt(token.encode()).decode()
    except (InvalidToken, UnicodeError):
        raise SealError from None
    return tuple(secret.strip() for secret in joined.split(",") if secret.strip())


def _box(seal_key: str) -> MultiFernet:
    keys = [key.strip() for key in seal_key.split(",") if key.strip()]
    if not keys:
        raise SealError("MESHWORK_SEAL_KEY is empty: secrets cannot travel in messages without it")
    try:
        return MultiFernet([Fernet(key) for key in keys])
    except ValueError:
        raise SealError("MESHWORK_SEAL_KEY is no Fernet key: 32 random bytes in URL-safe base64") from None
