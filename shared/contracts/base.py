"""The base of every message, manifest and event."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

# What jobs and deliveries are called: a part of keys in the store, of headers and of rows, each of which takes less than JSON does.
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Contract(BaseModel):
    """Frozen; unknown fields are ignored, so that a newer sender may add optional ones."""

    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="null")

    def to_bytes(self) -> bytes:
        """The message as it travels: compact UTF-8 JSON."""
        return self.model_dump_json().encode()
