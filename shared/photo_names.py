"""Photos named in a sentence for a person."""

from collections.abc import Sequence


def listed(names: Sequence[str], most: int = 10) -> str:
    """`a.jpg, b.jpg and 3 more`: as many names as a sentence bears."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
