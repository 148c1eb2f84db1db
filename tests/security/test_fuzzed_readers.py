"""Everything that reads what others wrote, messages, events, manifests, bodies, forms, photos, has an answer for what it cannot read.

A few values here; `make fuzz N=100000` tries as many as it is told (tests/security/README.md).
"""

import pytest

from shared.contracts import events, manifest, messages, request, slip, split
from shared.contracts.base import Contract
from tests.security.fuzzing.message_values import models
from tests.security.fuzzing.values import READERS, try_once


def test_every_kind_of_message_is_tried() -> None:
    """Those of the contracts' modules are all here."""
    modules = (events, manifest, messages, request, slip, split)
    there = {value for module in modules for value in vars(module).values() if isinstance(value, type) and issubclass(value, Contract)}
    assert {model for model in there if model is not Contract and not model.__name__.startswith("_")} <= set(models())


@pytest.mark.parametrize("name", READERS)
def test_nothing_that_is_read_breaks_who_reads_it(name: str) -> None:
    """Each says of itself in tests/security/fuzzing what it may answer."""
    reader = READERS[name]
    tally = try_once(reader, 1, reader.least)
    assert tally.faults == []
    assert tally.total() >= reader.least
