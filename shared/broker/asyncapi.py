"""The AsyncAPI 3 document of what travels over the broker, made from the topology and the message contracts."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from shared.broker.topology import TOPOLOGY, Queue, Topology
from shared.contracts.events import StageCompleted, StageFailed, StageProgress, StageStarted, WebhookAttempted
from shared.contracts.messages import StageMessage, WebhookMessage
from shared.contracts.routing import (
    DEAD_EXCHANGE,
    DEAD_TRACKER_QUEUE,
    DEAD_WEBHOOKS_QUEUE,
    EVENTS_EXCHANGE,
    HEADER_CODE,
    HEADER_JOB,
    HEADER_REASON,
    HEADER_STEP,
    HEADER_TRACEPARENT,
    RETRY_EXCHANGE,
    TRACKER_QUEUE,
    WEBHOOKS_QUEUE,
    WORK_EXCHANGE,
)

Json = dict[str, Any]

_EVENTS: tuple[type[BaseModel], ...] = (StageStarted, StageProgress, StageCompleted, StageFailed, WebhookAttempted)
_WORK: tuple[type[BaseModel], ...] = (StageMessage, WebhookMessage)
_ON_EXCHANGE = {WORK_EXCHANGE: _WORK, RETRY_EXCHANGE: _WORK, EVENTS_EXCHANGE: _EVENTS, DEAD_EXCHANGE: (*_WORK, *_EVENTS)}
_HEADERS = {
    HEADER_JOB: "Job id.",
    HEADER_STEP: "Name of the step.",
    HEADER_TRACEPARENT: "W3C trace context.",
    HEADER_CODE: "On dead letters: the error code.",
    HEADER_REASON: "On dead letters: why, for a person.",
    "cloudEvents_id": "CloudEvents 1.0 attributes: id, source, type, subject, time, specversion, datacontenttype.",
}


def asyncapi(topology: Topology = TOPOLOGY) -> Json:
    """The document. Exchanges are what one sends to, queues what one receives from."""
    exchanges = {f"{name}Exchange": _exchange(name, purpose) for name, purpose in topology.exchanges.items()}
    queues = {f"{_identifier(queue.name)}Queue": _queue(queue) for queue in topology.queues}
    sends = {f"sendTo{_title(name)}": _operation("send", f"{name}Exchange") for name in topology.exchanges}
    receives = {
        f"receiveFrom{_title(queue.name)}": _operation("receive", f"{_identifier(queue.name)}Queue")
        for queue in topology.queues
        if queue.policy.ttl is None  # nobody consumes a retry queue
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Meshwork",
            "version": "1",
            "description": "What travels between the gateway, the stages and the webhooks service.",
        },
        "defaultContentType": "application/json",
        "servers": {"rabbitmq": {"host": "rabbitmq:5672", "pathname": "/meshwork", "protocol": "amqp", "protocolVersion": "0.9.1"}},
        "channels": exchanges | queues,
        "operations": sends | receives,
        "components": _components(),
    }


def _exchange(name: str, purpose: str) -> Json:
    binding = {"is": "routingKey", "exchange": {"name": name, "type": "topic", "durable": True, "autoDelete": False}}
    return {"address": name, "description": purpose} | _messages(_ON_EXCHANGE[name]) | {"bindings": {"amqp": binding}}


def _queue(queue: Queue) -> Json:
    bound = ", ".join(f"{exchange} by {pattern}" for exchange, pattern in queue.bindings)
    binding = {"is": "queue", "queue": {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False}}
    description = f"{queue.purpose} Bound to {bound}."
    return {"address": queue.name, "description": description} | _messages(_on_queue(queue)) | {"bindings": {"amqp": binding}}


def _on_queue(queue: Queue) -> tuple[type[BaseModel], ...]:
    if queue.name == TRACKER_QUEUE:
        return (*_EVENTS, *_WORK)
    if queue.name == DEAD_TRACKER_QUEUE:
        return _EVENTS
    if queue.name in (WEBHOOKS_QUEUE, DEAD_WEBHOOKS_QUEUE):
        return (WebhookMessage,)
    return _WORK if queue.policy.ttl is not None else (StageMessage,)


def _messages(models: tuple[type[BaseModel], ...]) -> Json:
    return {"messages": {model.__name__: {"$ref": f"#/components/messages/{model.__name__}"} for model in models}}


def _operation(action: str, channel: str) -> Json:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _components() -> Json:
    models = (*_WORK, *_EVENTS)
    _, schemas = models_json_schema([(model, "serialization") for model in models], ref_template="#/components/schemas/{model}")
    headers = {"type": "object", "properties": {name: {"type": "string", "description": text} for name, text in _HEADERS.items()}}
    messages = {
        model.__name__: {
            "name": model.__name__,
            "summary": (model.__doc__ or "").strip(),
            "headers": {"$ref": "#/components/schemas/Headers"},
            "payload": {"$ref": f"#/components/schemas/{model.__name__}"},
        }
        for model in models
    }
    return {"messages": messages, "schemas": {"Headers": headers, **schemas["$defs"]}}


def _identifier(name: str) -> str:
    return name.replace(".", "_")


def _title(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("."))
