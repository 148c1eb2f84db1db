"""Logs of every process: one JSON object a line on stderr, with job, stage, attempt and trace id, and without secrets.

configure("INFO", json_lines=True, service="sfm")
with task_context(job=job_id, stage="sfm", attempt="1", trace=trace):
    logger.info("computing")
"""

import json
import logging
import re
import sys
import traceback
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from loguru import logger

if TYPE_CHECKING:
    from loguru import Message, Record

HIDDEN = "***"
CONTEXT = ("job", "stage", "attempt", "trace")

# What a secret looks like wherever it turns up: in a URL, a header, a repr, a traceback.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"whsec_[A-Za-z0-9+/=_-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s:/@]*):[^\s/]*@"), rf"\1:{HIDDEN}@"),
    (re.compile(r"(?i)(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)([?&](?:signature|sig|token|key|api_key)=)[^&\s\"']+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]+"), rf"\1{HIDDEN}"),
    (
        re.compile(r"(?i)(\b(?:authorization|x-api-key|webhook-signature)\b[\"']?\s*[:=,]\s*b?[\"']?)(?!bearer)(?:[a-z]+\s+)?[^\s\"'})]+"),
        rf"\1{HIDDEN}",
    ),
    (
        re.compile(r"(?i)(\b\w*(?:secret|password|passwd|api_key|access_key|seal_key)\w*[\"']?\s*[:=]\s*[\"']?)[^\s\"',;&})]+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"\bmwk_[A-Za-z0-9_-]+"), f"mwk_{HIDDEN}"),
    (re.compile(r"\bmeshwork\.key\.[^\s,\"']+"), f"meshwork.key.{HIDDEN}"),
    (re.compile(r"\bv1,[A-Za-z0-9+/]{20,}={0,2}"), f"v1,{HIDDEN}"),
    (re.compile(r"\bgAAAA[A-Za-z0-9_-]{20,}={0,2}"), HIDDEN),
)
# aiosqlite tells statements with their values: callers' URLs and what is in them.
_QUIET = dict.fromkeys(("aio_pika", "aiormq", "urllib3", "httpx", "httpcore", "asyncio", "aiosqlite"), "WARNING")


def redact(text: str) -> str:
    """The text without anything that looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def configure(level: str = "INFO", json_lines: bool = True, service: str = "meshwork") -> None:
    """Sends loguru's and the standard library's records to stderr, redacted. May be called again."""
    write = _json_line if json_lines else _text_line

    def sink(message: "Message") -> None:
        sys.stderr.write(write(message.record, service) + "\n")
        sys.stderr.flush()

    logger.remove()
    logger.add(sink, level=level.upper(), format="{message}", backtrace=False, diagnose=False)
    logging.basicConfig(handlers=[_Intercept()], level=logging.getLevelName(level.upper()), force=True)
    for name, quiet_level in _QUIET.items():
        logging.getLogger(name).setLevel(quiet_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # they bring handlers of their own
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True


def task_context(**values: str | None) -> AbstractContextManager[None]:
    """Binds job, stage, attempt and trace to everything logged inside, in this asyncio task and those that it starts."""
    return logger.contextualize(**{name: value for name, value in values.items() if value is not None})


class _Intercept(logging.Handler):
    """Hands records of the standard library's logging to loguru."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level: str | int = logger.level(record.levelname).name
        except ValueError:
            level = record.levelno

        def rename(entry: "Record") -> None:
            entry["name"] = record.name

        logger.patch(rename).opt(exception=record.exc_info).log(level, "{}", record.getMessage())


def _fields(record: "Record", service: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "service": service,
        "logger": record["name"],
        "message": redact(record["message"]),
    }
    fields |= {name: redact(str(value)) for name, value in record["extra"].items()}
    error = record["exception"]
    if error is not None and error.type is not None:
        fields["exception"] = redact("".join(traceback.format_exception(error.type, error.value, error.traceback)))
    return fields


def _json_line(record: "Record", service: str) -> str:
    return json.dumps(_fields(record, service), ensure_ascii=False, default=str)


def _text_line(record: "Record", service: str) -> str:
    fields = _fields(record, service)
    context = " ".join(f"{name}={fields[name]}" for name in CONTEXT if name in fields)
    line = f"{record['time']:HH:mm:ss.SSS} {fields['level']:<7} {service:<12} {fields['message']} {context}".rstrip()
    return f"{line}\n{fields['exception']}" if "exception" in fields else line
