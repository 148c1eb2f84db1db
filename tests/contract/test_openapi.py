"""The OpenAPI document tells the whole surface, and answers keep to it."""

import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gateway.problems import PROBLEMS
from tests.unit.gateway_http.conftest import KEY, URLS, RunningGateway, running_gateway

METHODS = {"get", "post", "delete"}


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory):
    async with running_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="module")
def document(gateway: RunningGateway) -> dict[str, Any]:
    return gateway.app.openapi()


def operations(document: dict[str, Any]):
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert method in METHODS
            yield f"{method.upper()} {path}", operation


def described(schema: Any, path: str = "") -> list[str]:
    """Places of properties without a description."""
    if not isinstance(schema, dict):
        return []
    missing = [f"{path}.{name}" for name, value in schema.get("properties", {}).items() if "description" not in value]
    for name, value in schema.get("properties", {}).items():
        missing += described(value, f"{path}.{name}")
    return missing


def test_the_surface_is_the_promised_one(document: dict[str, Any]) -> None:
    """Each call, once."""
    assert {name for name, _ in operations(document)} == {
        "POST /api/v1/reconstruct",
        "POST /api/v1/jobs",
        "GET /api/v1/jobs",
        "GET /api/v1/jobs/{job_id}",
        "DELETE /api/v1/jobs/{job_id}",
        "POST /api/v1/jobs/{job_id}/cancel",
        "POST /api/v1/jobs/{job_id}/retry",
        "GET /api/v1/jobs/{job_id}/artifacts",
        "GET /api/v1/jobs/{job_id}/artifacts/{name}",
        "GET /api/v1/jobs/{job_id}/events",
        "GET /api/v1/jobs/{job_id}/webhooks",
        "POST /api/v1/jobs/{job_id}/webhooks/{delivery_id}/replay",
        "GET /api/v1/capabilities",
        "GET /livez",
        "GET /readyz",
        "GET /metrics",
    }


def test_every_field_has_a_description(document: dict[str, Any]) -> None:
    """A reader of /docs needs nothing else."""
    missing = [place for name, schema in document["components"]["schemas"].items() for place in described(schema, name)]
    for name, operation in operations(document):
        missing += [f"{name} {p['name']}" for p in operation.get("parameters", []) if "description" not in p and p["in"] != "path"]
        for content in operation.get("requestBody", {}).get("content", {}).values():
            missing += described(content["schema"], name)
    assert missing == []


def test_every_error_is_a_problem_with_known_codes(document: dict[str, Any]) -> None:
    """In the shape of RFC 9457, each code with its own status."""
    for name, operation in operations(document):
        if "/api/" not in name:
            continue
        assert {"401", "429", "500", "503"} <= operation["responses"].keys()
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert response["content"].keys() == {"application/problem+json"}, (name, status)
                codes = re.findall(r"`([A-Z_]+)`", response["description"])
                assert codes and {PROBLEMS[code].status for code in codes} == {int(status)}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert set(document["components"]["schemas"]["ProblemDocument"]["properties"]["code"]["enum"]) == set(PROBLEMS)


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    """No schema is named that is not there."""
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))
    assert named <= document["components"]["schemas"].keys()


async def test_answers_keep_to_their_schemas(gateway: RunningGateway, document: dict[str, Any]) -> None:
    """What is documented is what is sent, field for field."""

    def check(name: str, value: Any) -> None:
        Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": document["components"]}).validate(value)
        assert value.keys() == document["components"]["schemas"][name]["properties"].keys() or name == "ProblemDocument"

    async with gateway.client(**{"X-API-Key": KEY}) as api:
        accepted = await api.post("/api/v1/reconstruct", json={"image_urls": URLS, "callback_url": "https://example.org/hook"})
        check("Accepted", accepted.json())
        location = accepted.headers["location"]
        check("JobDocument", (await api.get(location)).json())
        await gateway.finish(accepted.json()["job_id"], {"model.glb": b"glTF"})
        check("JobDocument", (await api.get(location)).json())
        check("JobPage", (await api.get("/api/v1/jobs")).json())
        check("ArtifactList", (await api.get(f"{location}/artifacts")).json())
        deliveries = (await api.get(f"{location}/webhooks")).json()
        check("DeliveryList", deliveries)
        check("Replay", (await api.post(f"{location}/webhooks/{deliveries['deliveries'][0]['id']}/replay")).json())
        check("Capabilities", (await api.get("/api/v1/capabilities")).json())
        check("Readiness", (await api.get("/readyz")).json())
        check("ProblemDocument", (await api.get("/api/v1/jobs/none")).json())
        check("ProblemDocument", (await api.post("/api/v1/reconstruct", json={})).json())


def test_every_code_of_the_door_stands_in_the_readme_or_the_document(document: dict[str, Any]) -> None:
    """A caller can look up each code, its meaning and what to do."""
    text = str(document) + (Path(__file__).resolve().parents[2] / "README.md").read_text()
    assert [code for code in PROBLEMS if code not in text] == []
