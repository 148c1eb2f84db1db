"""Jobs, messages and stored requests for tests, with defaults for whatever a test does not care about."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from shared.broker.headers import message_headers
from shared.contracts.messages import StageMessage
from shared.contracts.request import ImageSource, JobRequest
from shared.contracts.routing import WORK_EXCHANGE, stage_queue
from shared.contracts.slip import RoutingSlip, Step
from shared.ports import ArtifactStore, Publication
from shared.storage import keys

FAKE_STAGES = ("ingest", "segmentation", "sfm")


def a_slip(
    stages: Sequence[str] = FAKE_STAGES,
    params: Mapping[str, dict[str, Any]] | None = None,
    hard_limit_s: float = 60.0,
    memory_limit_bytes: int = 1 << 30,
) -> RoutingSlip:
    """A slip with one step per stage; `params` by stage."""
    steps = tuple(
        Step(
            name=stage, stage=stage, params=(params or {}).get(stage, {}), hard_limit_s=hard_limit_s, memory_limit_bytes=memory_limit_bytes
        )
        for stage in stages
    )
    return RoutingSlip(pipeline="test", pipeline_version="1", preset="balanced", steps=steps)


def a_message(slip: RoutingSlip | None = None, job_id: str | None = None, position: int = 0, **counters: int) -> StageMessage:
    """Do a step of a job."""
    return StageMessage(job_id=job_id or str(uuid.uuid4()), slip=slip or a_slip(), position=position, **counters)


def a_request(job_id: str, images: Sequence[ImageSource] | None = None, outputs: Sequence[str] = ("model.glb",)) -> JobRequest:
    """What was asked: three photos by URL unless given."""
    sources = (
        tuple(ImageSource(name=f"{name}.jpg", url=f"http://photos.test/{name}.jpg") for name in "abc") if images is None else tuple(images)
    )
    return JobRequest(
        job_id=job_id,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        pipeline="test",
        preset="balanced",
        images=sources,
        outputs=tuple(outputs),
    )


def a_publication(message: StageMessage) -> Publication:
    """The message as the relay publishes it."""
    headers = message_headers("stage.work", "/meshwork/gateway", message.message_id, message.job_id, message.step.name)
    return Publication(WORK_EXCHANGE, stage_queue(message.step.stage), message.to_bytes(), message.message_id, "stage.work", headers)


async def store_request(store: ArtifactStore, job_id: str, images: Sequence[ImageSource] | None = None) -> JobRequest:
    """Puts `request.json` where the relay does."""
    request = a_request(job_id, images)
    await store.put(keys.request(job_id), request.to_bytes())
    return request
