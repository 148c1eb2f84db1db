"""What one service needs of requirements.lock, hashes and all.

python service_lock.py requirements.lock services/sfm/requirements.txt … > service.lock

The lock says below each package which file or package asks for it (`# via`); what a file asks for, directly or through others, is its
part. pip refuses a part that lacks a package that another one needs, as long as it checks hashes.
"""

import re
import sys
from collections.abc import Collection
from pathlib import Path

_PACKAGE = re.compile(r"^[A-Za-z0-9]")
_VIA = re.compile(r"^ +#  ? ?(?:via )?(?:-r )?(?P<by>[^ ]+)$")


def part_of(lock: str, files: Collection[str]) -> str:
    """The entries of `lock` that the requirement files, named as in the lock, ask for."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", lock.strip())
    asked_by = {entry: _asked_by(entry) for entry in entries if _PACKAGE.match(entry)}
    wanted = set(files)
    while found := {_name(entry) for entry, by in asked_by.items() if not by.isdisjoint(wanted)} - wanted:
        wanted |= found
    return "".join(f"{entry}\n" for entry in asked_by if _name(entry) in wanted)


def _name(entry: str) -> str:
    return entry.partition("==")[0].partition("[")[0]


def _asked_by(entry: str) -> set[str]:
    return {found["by"] for line in entry.splitlines() if (found := _VIA.match(line))} - {"via"}


if __name__ == "__main__":
    sys.stdout.write(part_of(Path(sys.argv[1]).read_text(), sys.argv[2:]))
