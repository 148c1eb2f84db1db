"""Limits of ingest that the operator sets."""

from datetime import timedelta

from shared.settings import SharedSettings


class IngestSettings(SharedSettings):
    """Read in the child process from the same environment as the worker's own settings."""

    max_image_bytes: int = 64 << 20
    max_image_megapixels: float = 100.0
    photo_timeout: timedelta = timedelta(minutes=2)  # one photo, redirects and retries included
    fetch_timeout: timedelta = timedelta(minutes=30)  # all photos of a job
    downloads: int = 8  # at once
