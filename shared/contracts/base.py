"""The base of every message, manifest and event."""

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1


class Contract(BaseModel):
    """Frozen; unknown fields are ignored, so that a newer sender may add optional ones."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    def to_bytes(self) -> bytes:
        """The message as it travels: compact UTF-8 JSON."""
        return self.model_dump_json().encode()
