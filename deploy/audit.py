"""Asks for known vulnerabilities of what requirements.lock pins, where the network lets anybody be asked.

python -m deploy.audit

Ends with 1 when one is known. Where nobody answers, it says so and ends with 0: no network is no fault of the code.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
LIMIT_S = 180
# Advisories that do not touch us: id -> why.
ACCEPTED: dict[str, str] = {}


@dataclass(frozen=True)
class Audit:
    """What was learnt: how many packages were asked about, how many of them had an answer, and what is known of which."""

    asked: int
    answered: int
    known: tuple[str, ...]


def audit(lock: str) -> Audit:
    """Asks about every package of `lock`; about the first one alone where that gets no answer."""
    first = re.split(r"^(?=[A-Za-z0-9])", lock, maxsplit=2, flags=re.MULTILINE)[1]
    found = read_report(_ask(first))
    return read_report(_ask(lock)) if found.answered else found


def read_report(report: str) -> Audit:
    """pip-audit's JSON; nothing where it could not say any."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        return Audit(0, 0, ())
    known = tuple(
        f"{package['name']} {package['version']}: {found['id']} (fixed in {', '.join(found['fix_versions']) or 'no version yet'})"
        for package in packages
        for found in package.get("vulns", ())
        if found["id"] not in ACCEPTED
    )
    return Audit(len(packages), sum("vulns" in package for package in packages), known)


def _ask(lock: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "requirements.txt"
        file.write_text(lock)
        asked = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--require-hashes", "--disable-pip"]
        try:
            done = subprocess.run([*asked, "--format", "json"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout


def main() -> int:
    """Prints what is known, or that nobody could be asked."""
    found = audit(LOCK.read_text())
    for line in found.known:
        print(line)
    if not found.answered:
        print("pip-audit: nobody who knows of vulnerabilities could be asked from here")
    elif found.answered < found.asked:
        print(f"pip-audit: nothing could be learnt about {found.asked - found.answered} of {found.asked} packages")
    return 1 if found.known else 0


if __name__ == "__main__":
    sys.exit(main())
