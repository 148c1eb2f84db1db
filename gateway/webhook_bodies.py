"""What a webhook says, frozen as text when the row decides: every attempt and replay sends these bytes."""

import json
from typing import Any

from gateway.database.engine import Rows
from gateway.database.models import DeliveryRow, Job
from gateway.links import Links, rfc3339
from shared.contracts.artifacts import REPORT
from shared.contracts.routing import deterministic_id

MAX_REPORT_BYTES = 16 << 10  # the body aims at 20 kB: receivers and their proxies take that without thought
_KEPT_ITEMS = 20
_KEPT_BYTES = 1024
MAX_NAMED_PHOTOS = 50  # of those dropped; the job names all
_MAX_LIST_BYTES = 6 << 10


async def add_webhook(rows: Rows, job: Job, kind: str, links: Links, step: str | None = None) -> None:
    """A delivery of this type and its outbox row, when the job has a callback that asked for it and none exists."""
    if not job.callback_url or kind not in job.callback_events:
        return
    delivery_id = deterministic_id(job.id, kind, step or "")
    if await rows.session.get(DeliveryRow, delivery_id) is not None:
        return
    body = webhook_body(rows, job, kind, links, step)
    rows.session.add(
        DeliveryRow(
            id=delivery_id, job_id=job.id, type=kind, step=step, url=job.callback_url, body=body, status="pending", created_at=rows.now
        )
    )
    rows.to_outbox(job.id, "webhook", {"delivery_id": delivery_id})


def webhook_body(rows: Rows, job: Job, kind: str, links: Links, step: str | None) -> str:
    """The JSON text; the job's row has its new state already."""
    ended = kind in ("job.completed", "job.failed", "job.cancelled")
    body: dict[str, Any] = {
        "type": kind,
        "timestamp": rfc3339(rows.now),
        "job_id": job.id,
        "status": job.status if ended else "processing",
        "result_url": links.result_url_of(job) if ended else None,
        "artifacts": links.artifacts_of(job) if ended else [],
        "report": compact_report(job.report or {}) if ended else {},
        "metadata": job.metadata_,
    }
    if step is not None:
        body["stage"] = step
    if kind == "job.failed":
        body |= {"error": job.error, "warnings": _leading(job.warnings, len(job.warnings)), "dropped": _dropped(job.images)}
    return json.dumps(body, allow_nan=False, separators=(",", ":"))


def _dropped(images: list[dict[str, Any]]) -> dict[str, Any]:
    """How many photos were dropped, and the first of them with their reasons."""
    lost = [{"name": image["name"], "reason": image["reason"]} for image in images if image["status"] == "dropped"]
    return {"count": len(lost), "photos": _leading(lost, MAX_NAMED_PHOTOS)}


def _leading(items: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """As many from the start as a body bears."""
    room, kept = _MAX_LIST_BYTES, []
    for item in items[:most]:
        room -= _size(item) + 1
        if room < 0:
            break
        kept.append(item)
    return kept


def compact_report(report: dict[str, Any]) -> dict[str, Any]:
    """The whole report where it is small; else verdict, reasons and whatever else is short, with a note where the rest is."""
    if _size(report) <= MAX_REPORT_BYTES:
        return report
    first = {name: report[name] for name in ("verdict", "reasons") if name in report and _size(report[name]) <= MAX_REPORT_BYTES // 4}
    kept = first | {"note": f"Shortened; the whole report is the artifact {REPORT}."}
    for name, value in report.items():
        short = _shortened(value)
        if name not in kept and short is not None and _size(kept) + _size({name: short}) <= MAX_REPORT_BYTES:
            kept[name] = short
    return kept


def _shortened(value: Any) -> Any:
    """Lists and deep branches that are long are left out; None for what has nothing short in it."""
    if _size(value) <= _KEPT_BYTES:
        return value
    if not isinstance(value, dict):
        return None
    kept = {name: item for name, item in list(value.items())[:_KEPT_ITEMS] if _size(item) <= _KEPT_BYTES // 4}
    return kept or None


def _size(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")))
