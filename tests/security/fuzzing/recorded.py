"""Valid requests, and what makes them nearly valid."""

import contextlib
import json
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from tests.security.conftest import ACME, OTHER
from tests.security.fuzzing.attacked import KEY, Known
from tests.security.fuzzing.changes import BYTES, ODD, changed_bytes, changed_text, changed_value, json_bytes, odd_text
from tests.security.hostile_files import photo, zipped
from tests.unit.gateway_http.conftest import URLS

PHOTOS = [photo(seed)[:2000] for seed in range(3)]
ARCHIVE = zipped([("a.jpg", PHOTOS[0]), ("b.jpg", PHOTOS[1])])
JSON_TYPE = ("content-type", "application/json")
FORM_TYPE = ("content-type", "multipart/form-data; boundary=edge")
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND"]
ODD_HEADERS = [
    ("content-type", "text/plain"), ("content-type", "application/json; charset=utf-16"), ("content-type", "multipart/form-data"),
    ("content-type", "multipart/form-data; boundary=" + "b" * 300), ("content-type", "multipart/form-data; boundary=\x80"),
    ("content-type", ""),
    ("content-length", "0"), ("content-length", "99999999999999999999"), ("content-length", "-1"), ("content-length", "٣"),
    ("content-encoding", "gzip"),
    ("idempotency-key", "k"), ("idempotency-key", ""), ("idempotency-key", "k" * 256), ("idempotency-key", "\x80"), ("last-event-id", "0"),
    ("last-event-id", "99999999999999999999"), ("last-event-id", "²"), ("last-event-id", "9" * 18), ("range", "bytes=0-1"),
    ("if-none-match", "*"),
    ("authorization", f"Bearer {KEY}"), ("authorization", "Bearer"), ("authorization", "Basic \xff"), ("x-api-key", "x"),
    ("x-api-key", "\xff"),
    ("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "javascript"), ("host", "evil.example\r\n"), ("host", ""),
    ("x-http-method-override", "DELETE"),
    ("cookie", "a=b; " * 200), ("accept", "*/*;q=banana"), ("transfer-encoding", "chunked"), ("expect", "100-continue"), ("origin", "null"),
]  # fmt: skip
KEYS = [ACME["read"], ACME["submit"], OTHER, "", "mwk_wrong", KEY + "x"]


@dataclass
class Asked:
    """A request. `path` is percent-encoded; a body is `json`, or the parts of a form, or bytes."""

    method: str
    path: str
    query: list[tuple[str, str]] = field(default_factory=list)
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("host", "gateway"), ("x-api-key", KEY)])
    json: Any = None
    form: list[tuple[str, bytes]] | None = None
    body: bytes = b""

    def target(self) -> bytes:
        """As it stands in the request line."""
        query = "&".join(f"{name}={value}" for name, value in self.query)
        return (self.path + ("?" + query if self.query else "")).encode("utf-8", "surrogatepass")

    def encode_body(self, random: Random) -> None:
        """Makes `body` from the others."""
        if self.form is not None:
            parts = [b"--edge\r\n" + head.encode("utf-8", "surrogatepass") + b"\r\n\r\n" + data + b"\r\n" for head, data in self.form]
            self.body = b"".join(parts) + b"--edge--\r\n"
        elif self.json is not None:
            self.body = json_bytes(random, self.json)


def recorded(random: Random, known: Known) -> Asked:
    """A valid request; those with bodies most often, as they go deepest."""
    kinds = (_submit, _submit, _submit, _upload, _upload, _retry, _retry, _look, _look, _act, _list, _download, _other)
    return random.choice(kinds)(random, known)


def _request_body(random: Random, known: Known) -> dict[str, Any]:
    body: dict[str, Any] = {"callback_url": "https://hooks.example.org/x", "metadata": {"order": 1, "deep": {"list": [1, "two", None]}}}
    if random.random() < 0.5:
        body |= {"preset": random.choice(("fastest", "balanced", "quality")), "pipeline": random.choice(("photogrammetry", "pointcloud"))}
    if random.random() < 0.5:
        body["callback_events"] = ["job.completed", "job.failed", "stage.completed"]
    if random.random() < 0.3:
        body |= {"outputs": ["pointcloud.ply", "cameras.json"], "priority": random.choice(("normal", "high"))}
    if random.random() < 0.6:
        body["options"] = {stage: _some_options(random, known.options[stage]) for stage in random.sample(sorted(known.options), 2)}
    return body


def _some_options(random: Random, properties: dict[str, Any]) -> dict[str, Any]:
    """Values at the edges of what the schema allows, and defaults."""
    chosen = random.sample(sorted(properties), min(2, len(properties)))
    return {name: random.choice(_values_of(properties[name])) for name in chosen}


def _values_of(schema: dict[str, Any]) -> list[Any]:
    told = [schema[name] for name in ("default", "minimum", "maximum", "exclusiveMinimum") if name in schema]
    inner = [value for choice in schema.get("anyOf", ()) for value in _values_of(choice)]
    return [*told, *schema.get("enum", ()), *inner] or ["x"]


def _submit(random: Random, known: Known) -> Asked:
    urls = [f"https://photos.example.org/{index}.jpg?v=1" for index in range(random.choice((3, 3, 6)))]
    body = _request_body(random, known) | {"image_urls": random.choice((URLS, urls, ["https://x.example/a.zip"]))}
    asked = Asked("POST", "/api/v1/reconstruct", json=body)
    asked.headers.append(JSON_TYPE)
    if random.random() < 0.2:
        asked.headers.append(("idempotency-key", f"order-{random.randrange(20)}"))
    return asked


def _upload(random: Random, known: Known) -> Asked:
    form = [
        (f'Content-Disposition: form-data; name="images"; filename="{index}.jpg"\r\nContent-Type: image/jpeg', PHOTOS[index])
        for index in range(3)
    ]
    if random.random() < 0.2:
        form = [('Content-Disposition: form-data; name="images"; filename="all.zip"', ARCHIVE)]
    if random.random() < 0.7:
        request = json.dumps(_request_body(random, known)).encode()
        form.insert(random.randrange(len(form) + 1), ('Content-Disposition: form-data; name="request"', request))
    asked = Asked("POST", "/api/v1/jobs", form=form)
    asked.headers.append(FORM_TYPE)
    return asked


def _retry(random: Random, known: Known) -> Asked:
    body = _request_body(random, known)
    fields = random.sample(sorted(body), random.randrange(min(3, len(body))))
    asked = Asked("POST", f"/api/v1/jobs/{known.some_job(random)}/retry", json={name: body[name] for name in fields})
    asked.headers.append(JSON_TYPE)
    return asked


def _look(random: Random, known: Known) -> Asked:
    rest = random.choice(("", "", "/artifacts", "/artifacts/model.glb", "/webhooks", "/events"))
    return Asked("GET", f"/api/v1/jobs/{known.some_job(random)}{rest}")


def _act(random: Random, known: Known) -> Asked:
    if random.random() < 0.4 and known.deliveries:
        return Asked("POST", f"/api/v1/jobs/{known.jobs['completed']}/webhooks/{random.choice(known.deliveries)}/replay")
    if random.random() < 0.3:
        return Asked("DELETE", f"/api/v1/jobs/{known.some_job(random)}")
    return Asked("POST", f"/api/v1/jobs/{random.choice(sorted(known.jobs.values()))}/cancel")


def _list(random: Random, known: Known) -> Asked:
    query = [("limit", str(random.choice((1, 20, 100)))), ("status", random.choice(("queued", "completed", "cancelled")))]
    if known.cursor and random.random() < 0.6:
        query.append(("cursor", known.cursor))
    return Asked("GET", "/api/v1/jobs", random.sample(query, random.randrange(len(query) + 1)))


def _download(random: Random, known: Known) -> Asked:
    path, _, query = random.choice(known.links).partition("?")
    asked = Asked(random.choice(("GET", "HEAD")), path, [tuple(pair.split("=", 1)) for pair in query.split("&")])  # type: ignore[misc]
    asked.headers = [("host", "gateway")]
    return asked


def _other(random: Random, known: Known) -> Asked:
    paths = (
        "/api/v1/capabilities",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/console/",
        "/console/console.js",
        "/ws/jobs/x",
        "/",
    )
    return Asked("GET", random.choice(paths))


def changed(random: Random, asked: Asked, known: Known) -> Asked:
    """Unchanged once in five times, else changed in one to three ways."""
    times = random.choice((0, 1, 1, 1, 3))
    for _ in range(times):
        random.choices((_change_body, _change_query, _change_headers, _change_path, _change_method), (12, 4, 4, 3, 1))[0](
            random, asked, known
        )
    asked.encode_body(random)
    if times and asked.body and random.random() < 0.15:
        asked.body = changed_bytes(random, asked.body)
    return asked


def _change_body(random: Random, asked: Asked, known: Known) -> None:
    if asked.form is not None:
        _change_form(random, asked.form)
    elif asked.json is not None:
        asked.json = changed_value(random, asked.json, random.choice((1, 1, 2, 5)))
    elif random.random() < 0.3:
        asked.body = random.choice(BYTES)
    else:
        _change_query(random, asked, known)


def _change_form(random: Random, form: list[tuple[str, bytes]]) -> None:
    if not form:
        return
    at, kind = random.randrange(len(form)), random.random()
    head, data = form[at]
    if kind < 0.4:
        form[at] = (changed_text(random, head), data)
    elif kind < 0.7 and "request" in head and data.startswith(b"{"):
        with contextlib.suppress(ValueError):  # it was changed before
            data = json_bytes(random, changed_value(random, json.loads(data), 2))
        form[at] = (head, data)
    elif kind < 0.8:
        form[at] = (head, changed_bytes(random, data))
    elif kind < 0.9:
        form.append(form[at])
    else:
        del form[at]


def _change_query(random: Random, asked: Asked, known: Known) -> None:
    names = ("limit", "status", "cursor", "expires", "signature", "x", "", "limit[]")
    value = quote(odd_text(random), errors="replace") if random.random() < 0.7 else str(random.choice(ODD))[:3000].replace(" ", "+")
    if asked.query and random.random() < 0.6:
        at = random.randrange(len(asked.query))
        name, old = asked.query[at]
        asked.query[at] = (name, random.choice((value, quote(changed_text(random, old), errors="replace"), old[:-1])))
        if random.random() < 0.2:
            asked.query.append((name, old))
    else:
        asked.query.append((random.choice(names), value))


def _change_headers(random: Random, asked: Asked, known: Known) -> None:
    kind = random.random()
    if kind < 0.2:
        asked.headers = [(name, random.choice(KEYS) if name == "x-api-key" else value) for name, value in asked.headers]
    elif kind < 0.3 and asked.headers:
        del asked.headers[random.randrange(len(asked.headers))]
    elif kind < 0.5 and asked.headers:
        at = random.randrange(len(asked.headers))
        name, value = asked.headers[at]
        asked.headers[at] = (name, changed_text(random, value)[:9000])
    else:
        asked.headers.append(random.choice(ODD_HEADERS))


def _change_path(random: Random, asked: Asked, known: Known) -> None:
    parts = asked.path.split("/")
    at, kind = random.randrange(len(parts)), random.random()
    if kind < 0.3:
        parts[at] = known.some_job(random)
    elif kind < 0.8:
        parts[at] = quote(changed_text(random, parts[at])[:500], safe=random.choice(("", "/.%")), errors="replace")
    elif kind < 0.9:
        parts.insert(at, random.choice(("", "..", ".", "%2e%2e", "%2f", "x")))
    elif len(parts) > 1:
        del parts[at]
    asked.path = "/".join(parts) or "/"


def _change_method(random: Random, asked: Asked, known: Known) -> None:
    asked.method = random.choice(METHODS)
