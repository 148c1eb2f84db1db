"""The one error tree. The family decides what happens to a message; the code is stable; the message is for a person.

MeshworkError
├── PermanentError           the caller's data: the job fails now, with a code and a hint
├── TransientError           may pass: the step is retried, counted
│   ├── OutOfMemory          the child met its memory limit: retried at a lower resolution
│   ├── StageTimeout         the child met its wall-clock limit
│   ├── DiskFull             the workspace's disk filled up under the step
│   └── ChildDied            the child process ended without an answer
├── DependencyUnavailable    broker, store or database are away, or the disk is full: waited for, uncounted
├── Unroutable               no queue is bound for a message: a configuration mistake
├── ObjectMissing            no artifact under this key
├── ObjectCorrupt            an artifact's bytes do not have the sha256 that its manifest states
├── LeaseLost                the broker took the message back: publish nothing
└── UnsafeAddress            a URL leads to an address that callers may not reach
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CodeInfo:
    """What a stable error code means: a sentence for a person, what to do, and whether the same request may succeed later."""

    sentence: str
    hint: str
    retryable: bool = False


# Codes that end a job or drop a photo. The codes of the HTTP surface are in gateway/problems.py.
CODES: dict[str, CodeInfo] = {
    "TOO_FEW_IMAGES": CodeInfo("Too few usable photos are left.", "Send at least 3 photos that open; 12 or more are recommended."),
    "TOO_FEW_REGISTERED": CodeInfo(
        "Fewer than half of the photos could be placed.",
        "Take photos all around the object, 60 to 80 % overlap from one to the next, sharp, and with texture in view.",
    ),
    "NO_SURFACE": CodeInfo(
        "No surface could be reconstructed.",
        "Use matt, textured surfaces and more overlap; glass, mirrors and plain white walls give nothing to match.",
    ),
    "MODEL_UNUSABLE": CodeInfo(
        "The segmentation model cannot be used.", "Name a model that the operator installed, or a URL with its sha256."
    ),
    "OUT_OF_MEMORY": CodeInfo("A step needed more memory than it may use.", "Send fewer or smaller photos, or use a smaller preset.", True),
    "STAGE_TIMEOUT": CodeInfo("A step took longer than its limit.", "Send fewer photos, or use a smaller preset.", True),
    "WORKER_LOST": CodeInfo("The worker was lost again and again while it worked on this job.", "Send the job again later.", True),
    "ARTIFACT_CORRUPT": CodeInfo("Stored data came back damaged again and again.", "Send the job again; tell the operator.", True),
    "INTERNAL": CodeInfo("Something went wrong on our side.", "Send the job again; if it fails again, tell the operator the job id.", True),
    "UNREACHABLE": CodeInfo("The photo could not be fetched.", "Check that the URL answers 200 without a login.", True),
    "UNSAFE_URL": CodeInfo("The URL leads to a private address.", "Use a public address, or ask the operator to allow yours."),
    "NOT_AN_IMAGE": CodeInfo(
        "The file is not an image that we read.",
        "Send JPEG, PNG, WebP, TIFF or HEIC; GIF, BMP, AVIF, JPEG 2000 and camera raw are not read.",
    ),
    "CORRUPT_IMAGE": CodeInfo("The image file is damaged.", "Send it again; it may have been cut off."),
    "IMAGE_TOO_LARGE": CodeInfo(
        "The image is larger than the limit.", "Stay under 64 MiB and 100 megapixels; an archive or a video under 2 GiB as it is sent."
    ),
    "IMAGE_TOO_SMALL": CodeInfo(
        "The image is too small or too narrow to show anything.",
        "Send photos of at least 32 pixels a side, and no side more than 20 times as long as the other.",
    ),
    "TOTAL_TOO_LARGE": CodeInfo(
        "The links of the job bring more than is fetched.", "Stay under 16 GiB in all: send fewer or smaller files."
    ),
    "NO_TIME_LEFT": CodeInfo("The job's other files took all the time.", "Send fewer or smaller photos and videos."),
    "TIMED_OUT": CodeInfo("The photo did not arrive in time.", "Serve photos faster, or upload them.", True),
    "CORRUPT_ARCHIVE": CodeInfo("The archive is damaged.", "Make it again and test it (`unzip -t`); it may have been cut off."),
    "ARCHIVE_TOO_LARGE": CodeInfo(
        "The archive or video holds more than is unpacked.",
        "Stay under 1,000 photos and 4 GiB in all archives and videos of a job, with nothing else in them.",
    ),
    "CORRUPT_VIDEO": CodeInfo(
        "The video cannot be read.",
        "Send MP4 or MOV (H.264, HEVC, MJPEG) or WebM (VP8, VP9) that plays to its end; it may have been cut off.",
    ),
    "VIDEO_TOO_LONG": CodeInfo(
        "The video is too long, or others of the job took its time.",
        "Send one round of the object: some minutes, 18,000 frames at most, in one video.",
    ),
    "EMPTY_ARCHIVE": CodeInfo("The archive holds no files.", "Put the photos into it; folders inside are fine."),
    "ENCRYPTED": CodeInfo("The photo is locked by a password.", "Send the archive without a password."),
    "NESTED_ARCHIVE": CodeInfo("An archive inside an archive is not opened.", "Put the photos themselves into one archive."),
    "NOT_UNPACKED": CodeInfo(
        "The entry of the archive is not unpacked.", "Make a plain ZIP: Deflate or no compression, files and folders only, no links."
    ),
    "DUPLICATE": CodeInfo("The same photo was sent earlier in this job.", "Send each photo once."),
    "TOO_BLURRED": CodeInfo("The photo is too blurred to use.", "Hold the camera still and use a shorter exposure."),
    "TOO_DARK": CodeInfo("The photo is black for the most part.", "Use more light, or a longer exposure on a tripod."),
    "TOO_BRIGHT": CodeInfo("The photo is burnt out to white.", "Use less exposure; avoid direct light and flash."),
    "NOT_REGISTERED": CodeInfo("The photo could not be placed among the others.", "Take more photos between this one and its neighbours."),
}


class MeshworkError(Exception):
    """Something went wrong in the mesh."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)


class PermanentError(MeshworkError):
    """The caller's data cannot be used.

    `code` is one of `CODES`; message and hint default to the code's own.
    `report` is what the step can still say (warnings, verdicts on photos): it is committed with the error.
    """

    def __init__(self, code: str, message: str | None = None, hint: str | None = None, report: object | None = None) -> None:
        info = CODES[code]
        self.code = code
        self.message = message or info.sentence
        self.hint = hint or info.hint
        self.retryable = info.retryable
        self.report = report
        super().__init__(self.message)


class TransientError(MeshworkError):
    """This may pass: the step is tried again."""

    code: str = "INTERNAL"


class OutOfMemory(TransientError):
    """The step needed more memory than its limit."""

    code = "OUT_OF_MEMORY"


class StageTimeout(TransientError):
    """The step took longer than its hard limit."""

    code = "STAGE_TIMEOUT"


class DiskFull(TransientError):
    """The disk of the workspace filled up while the step was worked on."""


class ChildDied(TransientError):
    """The child process ended without an answer."""


class DependencyUnavailable(MeshworkError):
    """A server that this process needs does not answer, or its disk has no room."""


class Unroutable(MeshworkError):
    """The broker has no queue for this message: the topology is not declared."""


class ObjectMissing(MeshworkError):
    """There is no artifact under this key."""


class ObjectCorrupt(MeshworkError):
    """An artifact's bytes differ from what its manifest states."""

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(f"artifact {key} does not have the sha256 that its manifest states")


class LeaseLost(MeshworkError):
    """The broker took the message back while it was being worked on."""


class UnsafeAddress(MeshworkError):
    """The URL leads to an address that callers may not reach."""
