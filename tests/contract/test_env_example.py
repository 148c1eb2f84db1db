"""`.env.example` and the settings classes hold the same keys and the same defaults."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.settings import SharedSettings

ROOT = Path(__file__).resolve().parents[2]
LINES = (ROOT / ".env.example").read_text().splitlines()
VARIABLE = re.compile(r"MESHWORK_[A-Z0-9_]+")
EXAMPLE = dict(line.split("=", 1) for line in LINES if VARIABLE.match(line))


def settings_classes() -> Iterator[type[SharedSettings]]:
    """Every settings class of the code: each lives in a module called settings."""
    for path in sorted(ROOT.glob("*/settings.py")) + sorted(ROOT.glob("*/*/settings.py")):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        yield from (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, SharedSettings))


CLASSES = sorted(set(settings_classes()), key=lambda cls: cls.__name__)
FIELDS = {f"MESHWORK_{name.upper()}" for cls in CLASSES for name in cls.model_fields}


def compose_variables() -> set[str]:
    """What the compose files read from the environment."""
    return set(VARIABLE.findall("".join((ROOT / name).read_text() for name in ("local.yml", "production.yml"))))


def test_no_settings_class_lives_elsewhere() -> None:
    """Whoever looks for a setting looks into modules called settings."""
    sources = [path for folder in ("gateway", "services", "shared", "deploy", "pipelines") for path in (ROOT / folder).rglob("*.py")]
    elsewhere = [path for path in sources if path.name != "settings.py" and re.search(r"class \w+\(\w*Settings\)", path.read_text())]
    assert elsewhere == []


def test_every_setting_is_listed_and_every_listed_one_is_read() -> None:
    """No key is missing, none is left over."""
    assert FIELDS - EXAMPLE.keys() == set()
    assert EXAMPLE.keys() - FIELDS - compose_variables() == set()


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_the_listed_values_are_the_defaults(cls: type[SharedSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying the file to .env changes nothing."""
    defaults = cls(_env_file=None)
    for name, value in EXAMPLE.items():
        monkeypatch.setenv(name, value)
    assert cls(_env_file=None) == defaults


def test_every_setting_says_why() -> None:
    """A comment stands above each variable, or above the group that it ends."""
    explained = False
    for line in LINES:
        if line.startswith("# "):
            explained = not line.startswith("# ----")
        elif VARIABLE.match(line):
            assert explained, f"{line} has no reason"
        else:
            explained = False


def test_the_samples_are_refused_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copying the file to .env opens no door."""
    for name, value in (EXAMPLE | {"MESHWORK_ENVIRONMENT": "production"}).items():
        monkeypatch.setenv(name, value)
    gateway = importlib.import_module("gateway.settings").GatewaySettings
    with pytest.raises(ValueError, match="MESHWORK_API_KEY"):
        gateway(_env_file=None)
