"""What worker and child say to each other: frames of JSON, four bytes of length first. Errors cross as data.

worker → child   {"ask": "describe"}
                 {"ask": "run" | "split" | "run_part" | "join", "workspace", "params", "reduction", "tries", "round", "part"}
child → worker   {"say": "stage", "name", "version", "needs", "rounds", "least_inputs", "split_needs", "join_needs"}
                 {"say": "progress", "fraction", "message"} | {"say": "finished", "output"}
                 {"say": "done", "report", "parts", "peak_memory_bytes"}
                 {"say": "permanent", "code", "message", "hint", "report"} | {"say": "transient", "code", "message"}
                 {"say": "crashed", "traceback"}
"""

import json
import struct
from typing import Any

from shared.contracts.manifest import StageReport
from shared.errors import CODES, ChildDied, MeshworkError, OutOfMemory, PermanentError, StageTimeout, TransientError

Frame = dict[str, Any]

HEADER = struct.Struct("!I")
MAX_FRAME_BYTES = 64 << 20  # a child that reads hostile files is not trusted with our memory


def pack(frame: Frame) -> bytes:
    """A frame as it travels."""
    body = json.dumps(frame, separators=(",", ":")).encode()
    return HEADER.pack(len(body)) + body


def frame_size(header: bytes) -> int:
    """How many bytes follow. Raises ChildDied for more than anybody should send."""
    size = int(HEADER.unpack(header)[0])
    if size > MAX_FRAME_BYTES:
        raise ChildDied(f"the child sent a frame of {size} bytes")
    return size


def unpack(body: bytes) -> Frame:
    """The frame. Raises ChildDied for what is none."""
    try:
        frame = json.loads(body)
    except ValueError as error:
        raise ChildDied("the child sent what is not JSON") from error
    if not isinstance(frame, dict):
        raise ChildDied("the child sent what is not a frame")
    return frame


def error_frame(error: PermanentError | TransientError) -> Frame:
    """An error of a stage as data."""
    if isinstance(error, PermanentError):
        report = error.report.model_dump(mode="json") if isinstance(error.report, StageReport) else error.report
        return {"say": "permanent", "code": error.code, "message": error.message, "hint": error.hint, "report": report}
    return {"say": "transient", "code": error.code, "message": str(error)}


def error_of(frame: Frame) -> MeshworkError:
    """The error that a frame stands for."""
    code = frame.get("code") if frame.get("code") in CODES else "INTERNAL"
    message = frame.get("message")
    if frame.get("say") == "permanent":
        report = StageReport.model_validate(frame["report"]) if frame.get("report") else None
        return PermanentError(str(code), message, frame.get("hint"), report)
    if frame.get("say") != "transient":
        return ChildDied("the stage failed in a way that nobody foresaw")
    if code == "OUT_OF_MEMORY":
        return OutOfMemory(message)
    if code == "STAGE_TIMEOUT":
        return StageTimeout(message)
    error = TransientError(message)
    error.code = str(code)
    return error
