"""Every key of the bucket. Nobody else spells one."""

JOBS = "jobs/"


def job_prefix(job_id: str) -> str:
    """Everything of a job."""
    return f"{JOBS}{job_id}/"


def request(job_id: str) -> str:
    """What was asked."""
    return f"{job_prefix(job_id)}request.json"


def image(job_id: str, index: int, name: str) -> str:
    """An uploaded photo as received; `index` counts from 0 in the order sent."""
    return f"{job_prefix(job_id)}images/{index:03d}_{name}"


def step_prefix(job_id: str, position: int, step: str) -> str:
    """Everything of one step; positions count from 0, folders from 01."""
    return f"{job_prefix(job_id)}{position + 1:02d}-{step}/"


def step_manifest(job_id: str, position: int, step: str) -> str:
    """The commit point of a step."""
    return f"{step_prefix(job_id, position, step)}manifest.json"


def attempt_file(job_id: str, position: int, step: str, attempt: str, name: str) -> str:
    """One output of one delivery of a step."""
    return f"{step_prefix(job_id, position, step)}{attempt}/{name}"


def attempt_manifest(job_id: str, position: int, step: str, attempt: str) -> str:
    """What one delivery of a step made."""
    return attempt_file(job_id, position, step, attempt, "manifest.json")


def split(job_id: str, position: int, step: str, split: str) -> str:
    """How a round of a step is divided."""
    return attempt_file(job_id, position, step, split, "split.json")


def parts_made(job_id: str, position: int, step: str, split: str) -> str:
    """Prefix of what says which parts of a split are made, and nothing else."""
    return attempt_file(job_id, position, step, split, "made/")


def part_made(job_id: str, position: int, step: str, split: str, part: str) -> str:
    """The commit point of a part."""
    return f"{parts_made(job_id, position, step, split)}{part}.json"


def part_closes(job_id: str, position: int, step: str, split: str, part: str) -> str:
    """Present when whoever made, or found, this part found none missing, and means to bring on what follows."""
    return f"{parts_made(job_id, position, step, split)}{part}.closes"


def split_followed(job_id: str, position: int, step: str, split: str, following: str) -> str:
    """Present when the next round is divided, and every part of it was published."""
    return f"{parts_made(job_id, position, step, split)}{following}.follows"


def split_replaced(job_id: str, position: int, step: str, split: str) -> str:
    """Present when the step was published anew: nobody needs the parts of this split any more."""
    return f"{parts_made(job_id, position, step, split)}replaced"


def part_file(job_id: str, position: int, step: str, split: str, part: str, attempt: str, name: str) -> str:
    """One output of one delivery of a part."""
    return attempt_file(job_id, position, step, split, f"parts/{part}/{attempt}/{name}")


def is_of_part(key: str) -> bool:
    """Whether a key is one that `part_file` makes."""
    levels = key.split("/")
    return len(levels) >= 8 and levels[4] == "parts"


def webhook_body(job_id: str, delivery_id: str) -> str:
    """The exact body of a webhook."""
    return f"{job_prefix(job_id)}webhooks/{delivery_id}"


def stop(job_id: str) -> str:
    """Present when work on the job must end: `cancelled`, `failed` or `deleted`."""
    return f"{job_prefix(job_id)}stop"


def deleted(job_id: str) -> str:
    """Present when the job was deleted; never overwritten."""
    return f"{job_prefix(job_id)}deleted"


MAX_KEY_BYTES = 1024  # of S3
MAX_SEGMENT_BYTES = 255  # of file systems, and so of MinIO


def checked(key: str) -> str:
    """The key itself. Raises ValueError for one that a store would refuse or that would leave a folder: `..`, absolute, NUL, too long.

    Keys are checked by every store before use, so that both kinds refuse the same ones.
    """
    if not key or len(key.encode()) > MAX_KEY_BYTES or "\0" in key or key.startswith("."):
        raise ValueError(f"{key[:100]!r} is no key")
    if any(part in {"", ".", ".."} or len(part.encode()) > MAX_SEGMENT_BYTES for part in key.split("/")):
        raise ValueError(f"{key[:100]!r} is no key")
    return key
