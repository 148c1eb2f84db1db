"""Limits of ingest that the operator sets."""

from datetime import timedelta

from shared.settings import SharedSettings


class IngestSettings(SharedSettings):
    """Read in the child process from the same environment as the worker's own settings."""

    max_images: int = 1000  # of a job, those out of archives and videos included
    max_image_bytes: int = 64 << 20
    max_archive_bytes: int = 2 << 30  # one archive or video as it is sent
    max_fetched_bytes: int = 16 << 30  # what all links of a job bring
    max_unpacked_bytes: int = 4 << 30  # what comes out of all archives and videos of a job
    max_image_megapixels: float = 100.0
    photo_timeout: timedelta = timedelta(minutes=2)  # one photo, redirects and retries included
    max_video_frames: int = 18_000  # decoded of one video: ten minutes at 30 a second
    video_timeout: timedelta = timedelta(minutes=15)  # choosing frames of all videos of a job
    archive_timeout: timedelta = timedelta(minutes=20)  # one archive or video
    fetch_timeout: timedelta = timedelta(minutes=30)  # all photos of a job
    ingest_timeout: timedelta = timedelta(minutes=55)  # the whole step, five minutes under its hard limit: a large photo takes seconds
    downloads: int = 8  # at once
