"""What the operator decides about segmentation."""

from datetime import timedelta
from pathlib import Path

from shared.settings import SharedSettings


class SegmentationSettings(SharedSettings):
    """Read in the child process from the same environment as the worker's own settings."""

    model_dir: Path | None = None  # models that callers may name
    max_model_bytes: int = 2 << 30
    max_cached_model_bytes: int = 4 << 30  # of models by URL, together
    model_timeout: timedelta = timedelta(minutes=10)  # fetching a model by URL
