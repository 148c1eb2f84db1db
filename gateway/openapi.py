"""The OpenAPI document: what FastAPI knows of the routes, the problem shape, and the two ways to send a key."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from gateway.problems import ProblemDocument

_DESCRIPTION = """Photographs in, a textured 3D model and a signed webhook out.

Post image links to `/api/v1/reconstruct` with a `callback_url`; nobody has to poll. Every error is `application/problem+json` (RFC 9457)
with a stable `code`, a `hint`, and whether the same request may succeed later (`retryable`).
Webhooks follow Standard Webhooks (`webhook-id`, `webhook-timestamp`, `webhook-signature`)."""
_KEYS: dict[str, Any] = {
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}


def describe(app: FastAPI) -> None:
    """Makes `/openapi.json` tell the whole surface."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {})
    schemas["ProblemDocument"] = problem
    components["securitySchemes"] = _KEYS
    for path, item in document["paths"].items():
        if path.startswith("/api/"):
            for operation in item.values():
                operation["security"] = [{name: []} for name in _KEYS]
                _drop_default_422(operation["responses"])
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    return document


def _drop_default_422(responses: dict[str, Any]) -> None:
    """The framework's own shape of a validation error, which is never sent: routes that may answer 422 say so themselves."""
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
