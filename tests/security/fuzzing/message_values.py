"""Valid messages, events and manifests of every model, and what makes them nearly valid."""

import contextlib
import json
import types
from collections.abc import Callable
from datetime import datetime
from random import Random
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from shared.contracts import events, manifest, messages, request, slip, split  # noqa: F401 - models register by being imported
from shared.contracts.base import Contract
from tests.security.fuzzing.changes import changed_value, json_bytes

NEARLY_VALID = 8  # made of each valid one
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4), max_leaves=12
)
IDS = st.uuids().map(str) | st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\Z")
TEXTS = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())
_PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=20),
    int: st.integers(-3, 2**40),
    float: st.floats(),
    bool: st.booleans(),
    type(None): st.none(),
    datetime: st.datetimes(),
}


def models(base: type[Contract] = Contract) -> list[type[Contract]]:
    """Every message, event and manifest, so that a new one is covered."""
    below = [found for model in base.__subclasses__() for found in [model, *models(model)]]
    return sorted({model for model in below if not model.__name__.startswith("_")}, key=lambda model: model.__name__)


def valid(model: type[Contract]) -> st.SearchStrategy[dict[str, Any]]:
    """Fields that the model takes, those with a default now and then left out."""
    fields = {name: IDS if _is_id(field) else _values_of(field.annotation) for name, field in model.model_fields.items()}
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    return st.fixed_dictionaries(
        {n: fields[n] for n in fields if n in required}, optional={n: fields[n] for n in fields if n not in required}
    )


def _is_id(field: FieldInfo) -> bool:
    return any(getattr(constraint, "pattern", None) for constraint in field.metadata)


def _values_of(annotation: Any) -> st.SearchStrategy[Any]:
    origin, inside = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if isinstance(annotation, type) and issubclass(annotation, Contract):
        return valid(annotation)
    if origin is Annotated:
        return _values_of(inside[0])
    if origin is tuple:
        return st.lists(_values_of(inside[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(_values_of(inside[0]), _values_of(inside[1]), max_size=3)
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in {Union, types.UnionType}:
        return st.one_of([_values_of(one) for one in inside])
    return JSON  # JsonValue


def model_values(model: type[Contract]) -> st.SearchStrategy[Any]:
    """(fields, a seed for changes of them, a body)."""
    odd = st.fixed_dictionaries({}, optional=dict.fromkeys(model.model_fields, SCALARS | JSON))
    return st.tuples(valid(model) | odd | JSON, st.integers(0, 2**32), TEXTS)


def reads_back(model: type[Contract]) -> Callable[[Any], int]:
    """Whatever is in it travels unchanged; whatever is no such message is a ValidationError, never another exception."""

    def check(drawn: tuple[Any, int, bytes]) -> int:
        value, seed, text = drawn
        random, tried = Random(seed), 2
        _try_value(model, value)
        _try_text(model, text)
        for _ in range(NEARLY_VALID):
            changed = changed_value(random, json.loads(json.dumps(value, default=str)), random.choice((1, 1, 2)))
            _try_value(model, changed)
            _try_text(model, json_bytes(random, changed))
            tried += 2
        return tried

    return check


def _try_value(model: type[Contract], value: Any) -> None:
    try:
        read = model.model_validate(value)
    except ValidationError:
        return
    if _is_json(value):
        assert model.model_validate_json(read.to_bytes()).to_bytes() == read.to_bytes(), read


def _is_json(value: Any) -> bool:
    """Whether it can travel at all: no half of a surrogate pair."""
    try:
        return bool(json.dumps(value, default=str, ensure_ascii=False).encode())
    except ValueError:
        return False


def _try_text(model: type[Contract], text: bytes) -> None:
    with contextlib.suppress(ValidationError):
        model.model_validate_json(text)
