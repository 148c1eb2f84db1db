"""Errors of the HTTP surface: application/problem+json (RFC 9457) with a stable code, a hint, and whether to try again.

`raise Problem("NOT_FOUND", "There is no such job.")` anywhere below a route is enough.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from loguru import logger
from pydantic import BaseModel, Field, field_validator
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.database.records import QuotaExceeded
from shared.errors import DependencyUnavailable

MEDIA_TYPE = "application/problem+json"
# A body may hold thousands of mistakes; nobody reads more than these.
MAX_ERRORS = 50

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class ProblemInfo:
    """What a code of the door means."""

    status: int
    title: str
    hint: str
    retryable: bool = False


PROBLEMS: dict[str, ProblemInfo] = {
    "UNAUTHENTICATED": ProblemInfo(401, "The key is missing or wrong", "Send X-API-Key: KEY or Authorization: Bearer KEY."),
    "FORBIDDEN": ProblemInfo(403, "The key is not for this call", "Use a key with the scope that `detail` names."),
    "NOT_FOUND": ProblemInfo(404, "There is nothing here", "Check the address and the id; a deleted job is gone."),
    "METHOD_NOT_ALLOWED": ProblemInfo(405, "This address does not take that method", "See /docs for what it takes."),
    "JOB_FINISHED": ProblemInfo(409, "The job has ended", "A job that has ended cannot be cancelled; delete it to remove its files."),
    "JOB_NOT_FINISHED": ProblemInfo(409, "The job has not ended yet", "Wait for the webhook, or watch the job's events.", True),
    "IDEMPOTENCY_CONFLICT": ProblemInfo(409, "The Idempotency-Key belongs to another request", "Use a new key for a new request."),
    "PAYLOAD_TOO_LARGE": ProblemInfo(413, "The request is too large", "Stay under the limits that /api/v1/capabilities names."),
    "UNSUPPORTED_MEDIA_TYPE": ProblemInfo(415, "The body has a type that is not read here", "See /docs for the Content-Type."),
    "VALIDATION_FAILED": ProblemInfo(422, "The request is not valid", "Correct the fields that `errors` names; see /docs."),
    "TOO_FEW_IMAGES": ProblemInfo(
        422,
        "Too few photos",
        "Send at least 3 photos, or a link that ends in .zip, .mp4, .mov or .webm; 12 or more photos are recommended.",
    ),
    "TOO_MANY_IMAGES": ProblemInfo(422, "Too many photos", "Send fewer photos; /api/v1/capabilities names the limit."),
    "UNSAFE_URL": ProblemInfo(422, "A URL leads to a private address", "Use a public address, or ask the operator to allow yours."),
    "RATE_LIMITED": ProblemInfo(429, "Too many requests", "Wait for the seconds that Retry-After names.", True),
    "QUOTA_EXCEEDED": ProblemInfo(429, "Too many unfinished jobs", "Wait until a job has ended, or cancel one.", True),
    "TOO_MANY_STREAMS": ProblemInfo(
        429, "Too many streams of live events", "Close streams that nobody reads; a webhook tells the end without one.", True
    ),
    "INTERNAL": ProblemInfo(500, "Something went wrong on our side", "Send the request again; if it fails again, tell the operator.", True),
    "UNAVAILABLE": ProblemInfo(503, "The service cannot answer now", "Send the request again in a few seconds.", True),
}
_QUOTA_RETRY_AFTER_S = 30  # a job takes minutes: who asks sooner asks in vain
_CODE_OF_STATUS = {
    401: "UNAUTHENTICATED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}


class FieldError(BaseModel):
    """One thing that is wrong with a request."""

    loc: list[str | int] = Field(description="Where: begins with body, query, path or header, then the field's own path.")
    msg: str = Field(description="What is wrong, for a person.")
    type: str = Field(description="What kind of mistake it is, for a program.")

    @field_validator("loc", mode="after")
    @classmethod
    def _short_enough_to_read(cls, loc: list[str | int]) -> list[str | int]:
        return [part[:100] if isinstance(part, str) else part for part in loc]


class ProblemDocument(BaseModel):
    """An error, RFC 9457."""

    type: str = Field(description="An address that names the kind of problem.", examples=["urn:meshwork:problem:not-found"])
    title: str = Field(description="The kind of problem in a few words; the same for every problem of this code.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened this time, for a person.")
    instance: str = Field(description="The path that was asked for.")
    code: str = Field(description="The kind of problem, for a program; stable.", json_schema_extra={"enum": list(PROBLEMS)})
    hint: str = Field(description="What to do about it.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    errors: list[FieldError] | None = Field(None, description="With status 422: what is wrong, field by field; at most 50.")


class Problem(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self, code: str, detail: str = "", errors: Sequence[FieldError] = (), headers: Mapping[str, str] | None = None, hint: str = ""
    ) -> None:
        self.info = PROBLEMS[code]
        self.code = code
        self.detail = detail or self.info.title + "."
        self.errors = list(errors)[:MAX_ERRORS]
        self.headers = dict(headers or {})
        self.hint = hint or self.info.hint
        super().__init__(f"{code}: {self.detail}")

    def response(self, path: str) -> JSONResponse:
        """The answer that says so."""
        document = ProblemDocument(
            type=f"urn:meshwork:problem:{self.code.lower().replace('_', '-')}",
            title=self.info.title,
            status=self.info.status,
            detail=self.detail,
            instance=path,
            code=self.code,
            hint=self.hint,
            retryable=self.info.retryable,
            errors=self.errors if self.info.status == HTTPStatus.UNPROCESSABLE_ENTITY else None,
        )
        content = document.model_dump(mode="json", exclude_none=True)
        return JSONResponse(content, self.info.status, headers=self.headers, media_type=MEDIA_TYPE)

    async def send_to(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request from a middleware."""
        await self.response(scope["path"])(scope, receive, send)


def field_problem(code: str, loc: Loc, msg: str, kind: str = "value_error") -> Problem:
    """A 422 about one field."""
    return Problem(code, msg, [FieldError(loc=list(loc), msg=msg, type=kind)])


def invalid(errors: Sequence[FieldError]) -> Problem:
    """VALIDATION_FAILED with everything that was found."""
    return Problem("VALIDATION_FAILED", f"{_place(errors[0].loc)}: {errors[0].msg}", errors)


def _place(loc: Sequence[str | int]) -> str:
    return ".".join(str(part) for part in loc)


def responses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """How these codes stand in the OpenAPI document; every route may also answer 401, 403, 429, 500 and 503."""
    by_status: dict[int | str, list[str]] = {}
    for code in (*codes, "UNAUTHENTICATED", "FORBIDDEN", "RATE_LIMITED", "INTERNAL", "UNAVAILABLE"):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {
        status: {"description": " · ".join(f"`{code}`: {PROBLEMS[code].title}" for code in found), "content": content}
        for status, found in sorted(by_status.items(), key=lambda item: str(item[0]))
    }


def install(app: FastAPI) -> None:
    """Makes every error of this application a problem document."""

    def on_problem(request: Request, error: Any) -> JSONResponse:
        problem = error if isinstance(error, Problem) else _problem_of(error)
        return problem.response(request.scope["path"])  # request.url would read host and query too, which may be no text

    for kind in (Problem, HTTPException, RequestValidationError, QuotaExceeded, DependencyUnavailable):
        app.add_exception_handler(kind, on_problem)


def _problem_of(error: Exception) -> Problem:
    if isinstance(error, RequestValidationError):
        found = [FieldError(loc=list(e["loc"]), msg=e["msg"], type=e["type"]) for e in error.errors()]
        return invalid(found)
    if isinstance(error, HTTPException):
        return Problem(_CODE_OF_STATUS.get(error.status_code, "VALIDATION_FAILED"), headers=error.headers)
    if isinstance(error, QuotaExceeded):
        return Problem("QUOTA_EXCEEDED", str(error), headers={"Retry-After": str(_QUOTA_RETRY_AFTER_S)})
    logger.warning("a dependency is away: {}", error)
    return Problem("UNAVAILABLE", headers={"Retry-After": "2"})


class UnexpectedErrors:
    """The outermost layer: whatever is raised becomes INTERNAL, logged here and told to nobody."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes the request on; answers for it where nothing was answered yet."""
        started = False

        async def watched_send(message: Any) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception:
            logger.exception("a request ended in an unexpected error")
            if scope["type"] != "http" or started:
                raise
            await Problem("INTERNAL").send_to(scope, receive, send)
