"""What is installed is what was tested: requirements.lock has every package, with hashes, and each image takes its part of it."""

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.audit import LOCK, read_report
from deploy.docker.service_lock import part_of
from shared.contracts.routing import STAGES

ROOT = LOCK.parent
SHARED = "shared/requirements.txt"
TOP_LEVEL = {"gateway", "services", "shared", "pipelines", "deploy", "tests"}
FOLDERS = {"gateway": "gateway", "webhooks": "services/webhooks", **{stage: f"services/{stage}" for stage in STAGES}}


def pins(text: str) -> dict[str, str]:
    """Name -> version of each line that names a package."""
    return {canonicalize_name(name): version for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ \n\\]+)", text, re.MULTILINE)}


def asked_for(*files: str) -> dict[str, str]:
    """What requirement files name themselves."""
    return {name: version for file in files for name, version in pins((ROOT / file).read_text()).items()}


def test_every_package_has_hashes() -> None:
    """No entry of the lock may be replaced by other bytes under the same version."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK.read_text())[1:]
    assert len(entries) > 100
    assert [entry.splitlines()[0] for entry in entries if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_the_lock_has_what_the_requirement_files_ask_for() -> None:
    """Somebody who changes one of them runs `make lock`."""
    files = [SHARED, "requirements-dev.txt", *(f"{folder}/requirements.txt" for folder in FOLDERS.values())]
    assert asked_for(*files).items() - pins(LOCK.read_text()).items() == set()


@pytest.mark.parametrize("service", FOLDERS)
def test_the_part_of_a_service_is_complete(service: str) -> None:
    """Whatever a package of it needs in turn is part of it, so that pip finds each with its hash."""
    own = f"{FOLDERS[service]}/requirements.txt"
    part = pins(part_of(LOCK.read_text(), [SHARED, own]))
    assert asked_for(SHARED, own).items() <= part.items()
    needed = {canonicalize_name(found.name) for name in part for found in map(Requirement, requires(name) or ()) if _is_wanted(found)}
    assert needed - part.keys() == set()


@pytest.mark.parametrize("service", FOLDERS)
def test_what_a_service_imports_is_in_its_image(service: str) -> None:
    """Packages: in its part of the lock. Our own: in the folders that the image is made of."""
    own = f"{FOLDERS[service]}/requirements.txt"
    folders = [FOLDERS[service], "shared", *(["pipelines"] if service == "gateway" else [])]
    imported = {module for folder in folders for file in (ROOT / folder).rglob("*.py") for module in _imports(file)}
    ours = {module for module in imported if module.partition(".")[0] in TOP_LEVEL}
    assert [module for module in ours if not module.startswith(tuple(folder.replace("/", ".") for folder in folders))] == []
    packages = packages_distributions()
    tops = {module.partition(".")[0] for module in imported - ours} - sys.stdlib_module_names
    tops |= {"scipy"} if "numba" in tops else set()  # whose LAPACK numba takes for numpy.linalg in kernels
    part = pins(part_of(LOCK.read_text(), [SHARED, own])).keys()
    assert [top for top in tops if part.isdisjoint(map(canonicalize_name, packages.get(top, [top])))] == []


def _imports(file: Path) -> Iterator[str]:
    """Modules that it names, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def _is_wanted(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def test_a_part_is_smaller_than_the_whole() -> None:
    """The gateway's image has no numerics, and no tool of the developers."""
    part = pins(part_of(LOCK.read_text(), [SHARED, "gateway/requirements.txt"]))
    assert part.keys().isdisjoint({"numpy", "open3d", "pycolmap", "numba", "pytest", "mypy", "ruff"})


def test_no_registry_is_named() -> None:
    """Whoever installs uses the index that their machine is given."""
    assert re.findall(r"https?://|--index-url|--extra-index-url|--find-links", LOCK.read_text()) == []


def test_the_audit_tells_silence_from_a_clean_bill() -> None:
    """A package that nobody knows is not one without faults, and a fault names its cure."""
    skipped = '{"dependencies": [{"name": "a", "skip_reason": "not found"}], "fixes": []}'
    flawed = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}], "fixes": []}'
    silent = read_report("no JSON: the network was away")
    assert (silent.answered, silent.known) == (0, ())
    assert (read_report(skipped).asked, read_report(skipped).answered) == (1, 0)
    assert read_report(flawed).known == ("a 1: X-1 (fixed in 2)",)
