"""Compose files, the Dockerfile and the code agree."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import GatewaySettings
from services.ingest.settings import IngestSettings
from services.segmentation.settings import SegmentationSettings
from services.webhooks.settings import WebhookSettings
from shared.contracts.routing import STAGES
from shared.runtime.settings import WorkerSettings
from shared.settings import SharedSettings
from tests.support.containers import MINIO_IMAGE, POSTGRES_IMAGE, RABBITMQ_IMAGE

ROOT = Path(__file__).resolve().parents[2]
OURS = ("gateway", "webhooks", *STAGES)
EVERY = (*OURS, "rabbitmq", "postgres", "minio")
FILES = ("local.yml", "production.yml")
# What each process reads from its environment.
SETTINGS: dict[str, tuple[type[SharedSettings], ...]] = {
    "gateway": (GatewaySettings,),
    "webhooks": (WebhookSettings,),
    **dict.fromkeys(STAGES, (WorkerSettings,)),
    "ingest": (WorkerSettings, IngestSettings),
    "segmentation": (WorkerSettings, SegmentationSettings),
}
# The image decides these, or nobody but a test has a reason to.
NOT_FOR_OPERATORS = {
    "MESHWORK_" + name.upper()
    for name in ("host", "port", "health_host", "health_port", "work_dir", "memory_check_s", "stop_poll_s", "dependency_check_s")
} | {"MESHWORK_BLOCKED_LOOP_WARN_S", "MESHWORK_BLOCKED_LOOP_EXIT_S"}


def compose(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return content


def variables(name: str) -> set[str]:
    """Every variable that the file reads from the environment or sets for a process."""
    text = (ROOT / name).read_text()
    return set(re.findall(r"MESHWORK_[A-Z0-9_]+", text))


@pytest.mark.parametrize("name", FILES)
def test_every_service_of_the_code_runs(name: str) -> None:
    """The gateway, the webhooks and each stage have a service, beside the three servers."""
    assert set(compose(name)["services"]) == {*OURS, "rabbitmq", "postgres", "minio"}


@pytest.mark.parametrize("name", FILES)
def test_every_service_is_built_from_its_own_folder(name: str) -> None:
    """STAGE names a module with a __main__ and a requirements file."""
    for service in OURS:
        build = compose(name)["services"][service]["build"]
        assert build["args"] == {"STAGE": service}
        folder = ROOT / ("gateway" if service == "gateway" else f"services/{service}")
        assert (folder / "__main__.py").exists() and (folder / "requirements.txt").exists()


@pytest.mark.parametrize("name", FILES)
def test_the_servers_are_the_ones_that_are_tested(name: str) -> None:
    """Image names are pinned to a tag, and the same as the tests pull."""
    services = compose(name)["services"]
    for service, image in {"rabbitmq": RABBITMQ_IMAGE, "postgres": POSTGRES_IMAGE, "minio": MINIO_IMAGE}.items():
        assert image in f"{services[service]['image']} {services[service].get('build', {}).get('args')}"


@pytest.mark.parametrize("name", FILES)
def test_every_variable_is_documented(name: str) -> None:
    """.env.example lists each variable that a compose file reads or sets."""
    documented = set(re.findall(r"MESHWORK_[A-Z0-9_]+", (ROOT / ".env.example").read_text()))
    assert variables(name) - documented == set()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("service", OURS)
def test_every_setting_reaches_its_process(service: str, name: str) -> None:
    """A container gets the variables that its settings have, all that an operator may want to set, and no others."""
    given = set(compose(name)["services"][service]["environment"])
    fields = {field for settings in SETTINGS[service] for field in settings.model_fields}
    own = fields - set(SharedSettings.model_fields)
    assert given - {f"MESHWORK_{field.upper()}" for field in fields} == set()
    assert {f"MESHWORK_{field.upper()}" for field in own} - given - NOT_FOR_OPERATORS == set()


def test_only_the_gateway_and_the_store_listen_on_the_host_in_production() -> None:
    """Stages have no host port, so they can be scaled, and the broker and the database stay inside."""
    services = compose("production.yml")["services"]
    assert {name for name, service in services.items() if "ports" in service} == {"gateway", "minio"}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("service", EVERY)
def test_every_service_is_held_to_its_place(service: str, name: str) -> None:
    """Not root, a read-only root file system, no capability and no way to any; what it writes lies in memory or in a volume."""
    settings = compose(name)["services"][service]
    assert settings["user"] not in {"", "0", "root", "0:0"} and ":0" not in settings["user"]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"] and "cap_add" not in settings and "privileged" not in settings
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert all("size=" in mount for mount in settings["tmpfs"]) and any(mount.startswith("/tmp:") for mount in settings["tmpfs"])
    assert not any("docker.sock" in str(volume) for volume in settings.get("volumes", ()))
    assert not {"pid", "ipc", "network_mode", "devices"} & settings.keys()


def test_stages_have_neither_callers_secrets_nor_a_way_to_the_database() -> None:
    """They read files of strangers: what unseals webhooks' secrets, and the rows, are for the gateway and the webhooks alone."""
    services = compose("production.yml")["services"]
    assert {name for name in OURS if "MESHWORK_SEAL_KEY" in services[name]["environment"]} == {"gateway", "webhooks"}
    assert {name for name in EVERY if "database" in services[name].get("networks", ())} == {"gateway", "postgres"}
    assert services["postgres"]["networks"] == ["database"]


@pytest.mark.parametrize("service", EVERY)
def test_every_service_of_production_has_limits(service: str) -> None:
    """Memory, logs and the time to end; who ends unasked is started again."""
    settings = compose("production.yml")["services"][service]
    assert settings["restart"] == "unless-stopped"
    assert settings["mem_limit"] and settings["stop_grace_period"] and settings["logging"]["options"]["max-size"]


def test_the_images_end_as_another_user_than_root() -> None:
    """Also where somebody starts one without these files."""
    for recipe in (ROOT / "deploy/docker").glob("*Dockerfile"):
        assert re.findall(r"^USER (.+)$", recipe.read_text(), re.MULTILINE) == ["10001"]


def test_production_has_no_sample_secret() -> None:
    """Secrets come from the environment, and starting without them fails."""
    text = (ROOT / "production.yml").read_text()
    for name in ("API_KEY", "WEBHOOK_SECRET", "LINK_SECRET", "SEAL_KEY", "AMQP_PASSWORD", "DATABASE_PASSWORD", "S3_SECRET_KEY"):
        assert f"${{MESHWORK_{name}:?}}" in text
        assert f"${{MESHWORK_{name}:-" not in text


@pytest.mark.parametrize("name", FILES)
def test_no_service_has_a_fixed_name(name: str) -> None:
    """`--scale` needs names that Compose makes up."""
    assert all("container_name" not in service for service in compose(name)["services"].values())


def without_variables(text: str) -> str:
    """As Compose reads it when nothing is set: `${NAME:-this}`, and empty where something has to be."""
    return re.sub(r"\$\{MESHWORK_\w+(?::-([^}]*)|:\?)?\}", lambda found: found[1] or "", text)


@pytest.mark.parametrize("name", FILES)
def test_what_a_service_leans_on_is_there(name: str) -> None:
    """Services that it waits for, volumes and networks, recipes and folders: what Compose refuses, seen also where it is not installed."""
    text = without_variables((ROOT / name).read_text())
    assert "${" not in text
    content = yaml.safe_load(text)
    volumes = {
        str(volume).partition(":")[0] for service in content["services"].values() for volume in service.get("volumes", ()) if ":" in volume
    }
    assert {volume for volume in volumes if not volume.startswith(".")} == set(content["volumes"])
    assert all((ROOT / volume).exists() for volume in volumes if volume.startswith("."))
    for service in content["services"].values():
        assert set(service.get("depends_on", ())) <= set(content["services"])
        assert set(service.get("networks", ())) <= set(content.get("networks", {}))
        if build := service.get("build"):
            assert (ROOT / build["context"] / build["dockerfile"]).is_file()


def has_compose() -> bool:
    return (
        bool(shutil.which("docker")) and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.parametrize("files", [("local.yml",), ("production.yml",), ("production.yml", "deploy/docker/gpu.yml")])
def test_compose_accepts_the_files(files: tuple[str, ...]) -> None:
    """`docker compose config` reads them, where a client is installed; no daemon is asked. Elsewhere this holds nothing, and the tests
    above are all there is: each file is YAML, and what its services lean on is there."""
    if not has_compose():
        return
    names = re.findall(r"\$\{(MESHWORK_\w+):\?\}", (ROOT / "production.yml").read_text())
    arguments = [argument for file in files for argument in ("-f", file)]
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", **dict.fromkeys(names, "x")}
    result = subprocess.run(
        ["docker", "compose", *arguments, "config", "--quiet"], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
