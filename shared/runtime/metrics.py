"""Every metric of the mesh by name. No label ever holds a job id: the number of series stays bounded.

DELIVERIES.labels(stage="sfm", settlement="done").inc()
"""

from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

# Seconds of a stage: from a stand-in's blink to an hour of depth maps.
_STAGE_BUCKETS = (0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_MIB = float(1 << 20)
_MEMORY_BUCKETS = tuple(size * _MIB for size in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768))

# Stages
STAGE_DURATION = Histogram(
    "meshwork_stage_duration_seconds", "Compute of one attempt of a step.", ["stage", "outcome"], buckets=_STAGE_BUCKETS
)
STAGE_PEAK_MEMORY = Histogram("meshwork_stage_peak_memory_bytes", "Peak memory of one attempt.", ["stage"], buckets=_MEMORY_BUCKETS)
DELIVERIES = Counter("meshwork_stage_deliveries_total", "Deliveries by how they were settled.", ["stage", "settlement"])
STAGE_BUSY = Gauge("meshwork_stage_busy", "1 while the worker has a delivery.", ["stage"])
TRANSFERRED = Counter("meshwork_stage_transferred_bytes_total", "Artifacts moved; direction is download or upload.", ["stage", "direction"])
STEPS_REUSED = Counter("meshwork_stage_steps_reused_total", "Steps copied from the job that was retried.", ["stage"])
CHILD_STARTS = Counter("meshwork_stage_child_starts_total", "Child processes started.", ["stage"])
CORRUPT_INPUTS = Counter("meshwork_stage_corrupt_inputs_total", "Damaged or missing inputs found.", ["stage"])

# Every process
DEPENDENCY_UP = Gauge("meshwork_dependency_up", "1 while a dependency answers this process.", ["process", "dependency"])
LOOP_BLOCKED = Counter("meshwork_loop_blocked_total", "Times the event loop was found blocked.", ["process"])

# Webhooks
WEBHOOK_ATTEMPTS = Counter("meshwork_webhook_attempts_total", "Calls made; outcome is delivered, failed or parked.", ["outcome"])
WEBHOOK_DURATION = Histogram("meshwork_webhook_call_duration_seconds", "One call.", ["outcome"], buckets=_CALL_BUCKETS)

# Gateway
HTTP_REQUESTS = Counter("meshwork_http_requests_total", "Requests by route template.", ["method", "route", "status"])
HTTP_DURATION = Histogram(
    "meshwork_http_request_duration_seconds", "Requests by route template.", ["method", "route"], buckets=_CALL_BUCKETS
)
JOBS_ENDED = Counter("meshwork_jobs_ended_total", "Jobs by ending.", ["status"])
OUTBOX_PENDING = Gauge("meshwork_outbox_pending", "Outbox rows that wait for the relay.")


def exposition() -> tuple[bytes, str]:
    """What `/metrics` answers: body and content type."""
    return generate_latest(), CONTENT_TYPE_LATEST
