"""What the documents name is there: tests, files and verbs."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCUMENTS = (README, *sorted((ROOT / "tests").rglob("README.md")), *sorted((ROOT / "tests").rglob("RESULTS.md")))
PROMISES = ("## What happens when things fail", "## What it carries")
# In backquotes: a file of ours, with one of its tests or without, or a folder; `…::name` is of the file named before.
_NAMED = re.compile(r"(?:(?P<path>[\w.-]+(?:/[\w.-]+)*(?:\.(?:py|md|yml)|/))|…)(?:::(?P<test>\w+))?")


@cache
def functions_of(path: Path) -> frozenset[str]:
    """Every function that a module defines, methods included."""
    tree = ast.parse(path.read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def every_test() -> frozenset[str]:
    """Every test's name, and every test module's."""
    modules = list((ROOT / "tests").rglob("test_*.py"))
    return frozenset(path.stem for path in modules).union(*(functions_of(path) for path in modules))


@cache
def verbs() -> frozenset[str]:
    """Of the Makefile."""
    targets = re.findall(r"^([a-z][a-z -]*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return frozenset(verb for line in targets for verb in line.split())


def found_at(name: str, folder: Path) -> Path | None:
    """As a document in `folder` names it: from there, from the root, or from tests/."""
    return next((base / name for base in (folder, ROOT, ROOT / "tests") if (base / name).exists()), None)


def named_in(text: str, folder: Path) -> list[tuple[str, bool]]:
    """Every file, folder, test and verb that the text names, and whether it is there."""
    found, before = [], None
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if named := _NAMED.fullmatch(quoted):
            path = before = found_at(named["path"], folder) if named["path"] else before
            found.append((quoted, path is not None and (named["test"] is None or named["test"] in functions_of(path))))
        found += [(f"make {verb}", verb in verbs()) for verb in re.findall(r"\bmake ([a-z][a-z-]+)\b", quoted)]
    found += [(test, test in every_test()) for test in re.findall(r"\btest_\w+", text)]
    links = (link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link)
    return found + [(link, (folder / link).exists()) for link in links if link]


def promises() -> list[str]:
    """The last column of each row: what proves it."""
    sections = [README.read_text().partition(heading)[2].partition("\n## ")[0] for heading in PROMISES]
    tables = [[line for line in section.splitlines() if line.startswith("| ")][1:] for section in sections]
    assert all(tables)
    return [line.rstrip("| ").rpartition(" | ")[2] for table in tables for line in table]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_document_names_is_there(document: Path) -> None:
    """Files and folders, functions in them, verbs of the Makefile, targets of links."""
    assert [name for name, there in named_in(document.read_text(), document.parent) if not there] == []


def test_every_promise_names_what_proves_it() -> None:
    """A test, a folder of tests, or a benchmark's verb and results."""
    rows = promises()
    assert len(rows) > 40
    assert [row for row in rows if not named_in(row, ROOT)] == []


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("`contract/test_documents.py::test_every_promise_names_what_proves_it`, `…::promises`, `make test`, [it](README.md#layout)", []),
        ("`contract/test_documents.py::verbs_of_nobody`", ["contract/test_documents.py::verbs_of_nobody"]),
        ("`contract/test_documents.py`, `…::verbs_of_nobody`", ["…::verbs_of_nobody"]),
        ("`contract/of_nobody.py` and `chaos_of_nobody/`", ["contract/of_nobody.py", "chaos_of_nobody/"]),
        ("that test_of_nobody holds", ["test_of_nobody"]),
        ("`make nothing JOBS=1`", ["make nothing"]),
        ("[it](tests/of_nobody.md)", ["tests/of_nobody.md"]),
    ],
)
def test_what_is_not_there_is_told(text: str, missing: list[str]) -> None:
    """The test above can fail."""
    assert [name for name, there in named_in(text, ROOT) if not there] == missing
