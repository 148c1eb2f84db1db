"""What must be true of a run once it is calm."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from gateway.database.records import ENDINGS, FINISHED, DeliveryRecord, JobRecord
from gateway.documents import job_document
from gateway.webhook_bodies import compact_report
from shared.contracts.manifest import ChainLink, Manifest
from shared.contracts.routing import DEAD_TRACKER_QUEUE, stage_queue
from shared.contracts.split import Split
from shared.runtime.repair import MAX_FINDINGS
from shared.storage import keys
from tests.simulation.network import until_calm
from tests.simulation.parts import WEBHOOK_SCHEDULE_S
from tests.simulation.stand_ins import CROWD, LINEAGE, PARTITIONED, RESULT, STEPS, Call
from tests.support.gateway_rows import LINKS, TENANT

if TYPE_CHECKING:
    from tests.simulation.world import World

TROUBLES = ("INTERNAL", "OUT_OF_MEMORY", "NO_SURFACE")  # codes of what the stages' stand-ins raise
CLOSERS = CROWD  # of a round: those that commit its last parts at once look again but for one; and what follows it
CALL_UNDER_WAY_S = 120.0  # one that had begun when the store was told that its job is deleted; stalls of its caller come on top


@dataclass
class Ledger:
    """What callers know. `too_late`: jobs whose first cancel was answered with 409; a later one may meet one whose answer was lost."""

    accepted: list[str] = field(default_factory=list)
    cancels: Counter[str] = field(default_factory=Counter)
    cancelled: set[str] = field(default_factory=set)
    too_late: set[str] = field(default_factory=set)
    deleted: dict[str, float] = field(default_factory=dict)


async def violations(world: "World", ledger: Ledger) -> list[str]:
    """Every promise that was broken."""
    found = list(world.watcher.complaints)
    for job_id in ledger.accepted:
        record = await until_calm(lambda job_id=job_id: world.jobs.get_job(TENANT, job_id))  # type: ignore[misc]
        if job_id in ledger.deleted:
            found += _of_deleted(world, ledger, job_id, record)
        elif record is None:
            found.append(f"{job_id}: accepted, and lost")
        else:
            deliveries = await until_calm(lambda job_id=job_id: world.jobs.deliveries_of(TENANT, job_id))  # type: ignore[misc]
            found += _of_ending(world, ledger, record) + _of_webhooks(world, record, deliveries) + _of_artifacts(world, record)
    found += _of_deliveries(world, ledger)
    found += [f"{message.publication.message_id} cannot be read by the tracker" for message in world.server.ready(DEAD_TRACKER_QUEUE)]
    return found


def _of_ending(world: "World", ledger: Ledger, record: JobRecord) -> list[str]:
    job = record.job
    if job.status not in FINISHED:
        return [f"{job.id}: stuck as {job.status} at {job.stage}"]
    found = []
    if job.id in ledger.cancelled and job.status != "cancelled":
        found.append(f"{job.id}: cancel was answered with 202, but it is {job.status}")
    if job.id in ledger.too_late and job.status == "cancelled" and job.id not in ledger.cancelled:
        found.append(f"{job.id}: cancel was answered with 409, but it is cancelled")
    if job.status == "completed" and (job.progress != 100.0 or any(step.status != "completed" for step in record.steps)):
        found.append(f"{job.id}: completed with {job.progress} % and {[step.status for step in record.steps]}")
    if job.status == "failed" and not _may_fail(world, job.error or {}):
        found.append(f"{job.id}: failed though nothing was wrong with it: {job.error}")
    return found


def _may_fail(world: "World", error: dict[str, Any]) -> bool:
    """Killed workers, damaged artifacts and faults of the stages are what a job may fail by; two damages are mended."""
    code = error.get("code")
    damaged = code == "ARTIFACT_CORRUPT" and world.bucket.faults >= MAX_FINDINGS
    return code == "WORKER_LOST" or damaged or (world.plan.trouble > 0 and code in TROUBLES)


def _of_webhooks(world: "World", record: JobRecord, deliveries: list[DeliveryRecord]) -> list[str]:
    job, found = record.job, []
    endings = [each.delivery.type for each in deliveries if each.delivery.type in ENDINGS]
    if endings != [f"job.{job.status}"]:
        found.append(f"{job.id}: {job.status}, told as {endings}")
    kinds = Counter((each.delivery.type, each.delivery.step) for each in deliveries)
    found += [f"{job.id}: {kind} is told {count} times" for kind, count in kinds.items() if count > 1]
    for each in deliveries:
        found += _of_delivery(world, each)
        if each.delivery.type in ENDINGS:
            found += _of_body(record, json.loads(each.delivery.body))
    told: defaultdict[str, set[str]] = defaultdict(set)
    for call in world.receiver.calls:
        body = _said(call)
        if body.get("job_id") == job.id and body.get("type") in ENDINGS:
            told[str(body.get("status"))].add(call.webhook_id)
    if set(told) - {job.status} or any(len(ids) > 1 for ids in told.values()):
        found.append(f"{job.id}: {job.status}, but calls said {dict(told)}")
    return found


def _said(call: Call) -> dict[str, Any]:
    """Nothing where a bit flipped in it: its bytes are compared elsewhere."""
    try:
        return cast(dict[str, Any], json.loads(call.body))
    except ValueError:
        return {}


def _of_body(record: JobRecord, body: dict[str, Any]) -> list[str]:
    """What callers are told of an ending is what GET says ever after."""
    document = job_document(record, LINKS)
    document["report"] = compact_report(document["report"] or {})
    same = ("status", "error", "artifacts", "result_url", "report", "metadata", "warnings")
    differ = {name: (body[name], document[name]) for name in same if name in body and body[name] != document[name]}
    return [f"{record.job.id}: webhook and GET differ: {differ}"] if differ else []


def _of_delivery(world: "World", record: DeliveryRecord) -> list[str]:
    row, found = record.delivery, []
    calls = [call for call in world.receiver.calls if call.webhook_id == row.id]
    taken = any(call.answered < 300 for call in calls)
    if {call.body for call in calls} - {row.body.encode()}:
        found.append(f"{row.job_id}: {row.type} was told with other bytes than its row's")
    if row.status not in ("delivered", "parked"):
        found.append(f"{row.job_id}: webhook {row.type} is {row.status} after {len(calls)} calls")
    if row.status == "delivered" and not taken:
        found.append(f"{row.job_id}: webhook {row.type} is delivered, but nobody took it")
    if row.status == "parked" and _was_told_as_taken(record):
        found.append(f"{row.job_id}: webhook {row.type} is parked, though it was taken")
    tried = world.receiver.tries[row.id] + sum("damaged in our store" in (attempt.error or "") for attempt in record.attempts)
    if row.status == "parked" and tried <= len(WEBHOOK_SCHEDULE_S) and not _was_lost(record):
        found.append(f"{row.job_id}: webhook {row.type} is parked after {tried} calls")
    return found


def _was_told_as_taken(record: DeliveryRecord) -> bool:
    """A call that was taken, while whoever made it was killed before it could say so, is nobody's knowledge."""
    return any(attempt.error is None for attempt in record.attempts)


def _was_lost(record: DeliveryRecord) -> bool:
    """Its callers were killed again and again: that ends a schedule."""
    return any(attempt.error is not None and "was lost again and again" in attempt.error for attempt in record.attempts)


def _of_artifacts(world: "World", record: JobRecord) -> list[str]:
    job = record.job
    if job.status != "completed":
        return []
    named = {artifact["name"]: artifact for artifact in job.artifacts}
    if RESULT not in named:
        return [f"{job.id}: completed without {RESULT}"]
    key = named[RESULT]["key"]
    if key in world.bucket.damaged:
        return []  # after it was delivered
    if key not in world.bucket.objects:
        return [f"{job.id}: its {RESULT} is not in the store"]
    last = Manifest.model_validate_json(world.bucket.objects[key.rsplit("/", 1)[0] + "/manifest.json"])
    lineage = json.loads(world.bucket.objects[key])
    if [step for step, _ in lineage] != list(STEPS):
        return [f"{job.id}: made of {lineage}"]
    found = [complaint for link in last.chain for complaint in _of_parts(world, job.id, link)]
    for link, made in zip(last.chain, lineage, strict=False):
        key = keys.attempt_file(job.id, link.position, link.step, link.attempt, LINEAGE)
        named_one = json.loads(world.bucket.objects.get(key, b"[null]"))[-1] if key not in world.bucket.damaged else made
        if named_one != made:
            found.append(f"{job.id}: chains mixed at {link.step}: {named_one} is named, {made} is inside")
    return found


def _of_parts(world: "World", job_id: str, link: ChainLink) -> list[str]:
    """A step that was split is joined from every part of every round, each once."""
    made = Manifest.model_validate_json(world.bucket.objects[keys.attempt_manifest(job_id, link.position, link.step, link.attempt)])
    joined = Counter((part.split, part.part) for part in made.parts)
    splits = {part.split for part in made.parts}
    objects = world.bucket.objects
    planned = Counter(
        (split, part.name)
        for split in splits
        for part in Split.model_validate_json(objects[keys.split(job_id, link.position, link.step, split)]).parts
    )
    return [] if joined == planned else [f"{job_id}: {link.step} was joined from {joined}, not from {planned}"]


def _of_deliveries(world: "World", ledger: Ledger) -> list[str]:
    """Where nothing goes wrong, each part is asked for once, however many workers share the step; or twice, where calls take long."""
    delivered = world.network.delivered[stage_queue(PARTITIONED)]
    splits = [Split.model_validate_json(data) for key, data in world.bucket.objects.items() if key.endswith("/split.json")]
    parts = sum(len(split.parts) for split in splits)
    most = len(ledger.accepted) + parts * (2 if world.plan.slow else 1) + CLOSERS * len(splits)
    if not world.plan.faultless or delivered <= most:
        return []
    return [f"{delivered} deliveries for {parts} parts of {len(splits)} rounds"]


def _of_deleted(world: "World", ledger: Ledger, job_id: str, record: JobRecord | None) -> list[str]:
    found = []
    if record is not None:
        found.append(f"{job_id}: deleted, but GET finds it")
    left = set(world.bucket.below(keys.job_prefix(job_id))) - {keys.stop(job_id), keys.deleted(job_id)}
    if left:
        found.append(f"{job_id}: deleted, but {sorted(left)} are left")
    marked_at = world.bucket.since.get(keys.deleted(job_id))
    if marked_at is None:
        return [*found, f"{job_id}: deleted, and the store was never told"]
    calls = [call for call in world.receiver.calls if _said(call).get("job_id") == job_id]
    late = [call.at for call in calls if call.at > _under_way_until(marked_at, world.loop.stalls(call.by))]
    if late:
        found.append(f"{job_id}: deleted at {ledger.deleted[job_id]:.0f} s, marked at {marked_at:.0f} s, called at {late}")
    return found


def _under_way_until(marked_at: float, stalls: Sequence[tuple[float, float]]) -> float:
    """When a call that had begun at `marked_at` must have been made."""
    until = marked_at + CALL_UNDER_WAY_S
    for began, ended in stalls:
        if began <= until:
            until = max(until, ended + CALL_UNDER_WAY_S)
    return until
