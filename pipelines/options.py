"""What a caller may ask of each stage: JSON Schemas generated from services/<stage>/params.py, so that nobody imports a service."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from pipelines.definition import HERE

Path_ = tuple[str | int, ...]
FORMATS = FormatChecker(formats=())


@FORMATS.checks("uri")
def _is_web_address(value: object) -> bool:
    return not isinstance(value, str) or (value.startswith(("http://", "https://")) and value.isprintable())


@dataclass(frozen=True)
class OptionFault:
    """One thing that is wrong with a job's options. `path` begins with the step's name."""

    path: Path_
    message: str
    type: str


class StageOptions:
    """The options of one stage: its version, its schema and a check."""

    def __init__(self, stage: str, version: str, schema: Mapping[str, Any]) -> None:
        Draft202012Validator.check_schema(schema)
        self.stage = stage
        self.version = version
        self.schema = schema
        self._validator = Draft202012Validator(schema, format_checker=FORMATS)

    def faults(self, params: Mapping[str, Any]) -> Iterator[OptionFault]:
        """Everything that is wrong with these params, paths relative to them."""
        for error in self._validator.iter_errors(params):
            yield from _faults_of(_most_telling(error))


def load_options(folder: Path = HERE / "schemas") -> dict[str, StageOptions]:
    """Every stage's options, by stage."""
    contents = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {content["stage"]: StageOptions(content["stage"], content["version"], content["params"]) for content in contents}


def _most_telling(error: ValidationError) -> ValidationError:
    """Of a value that fits none of several shapes: a fault in the shape that was meant, which is the one that it comes closest to."""
    while error.context:
        shapes: dict[str | int, list[ValidationError]] = {}
        for inner in error.context:
            shapes.setdefault(inner.schema_path[0], []).append(inner)
        error = min(shapes.values(), key=_distance)[0]
    return error


def _distance(faults: list[ValidationError]) -> tuple[bool, bool]:
    """How far a value is from a shape: of another type altogether, or a shape for another value of the deciding field."""
    return any(not fault.path and fault.validator == "type" for fault in faults), any(fault.validator == "const" for fault in faults)


def _faults_of(error: ValidationError) -> Iterator[OptionFault]:
    path: Path_ = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {}) if isinstance(error.schema, Mapping) else {}
        given: Any = error.instance
        sentence = f"there is no such option; there are {', '.join(known)}"
        for name in sorted(set(given) - set(known)):
            yield OptionFault((*path, name), sentence, "extra_forbidden")
    else:
        yield OptionFault(path, _in_json_words(error)[:300], str(error.validator))


def _in_json_words(error: ValidationError) -> str:
    """The message with the value as callers sent it: null and true, not None and True."""
    shown = repr(error.instance)
    rest = error.message.removeprefix(shown)
    return error.message if rest == error.message else json.dumps(error.instance, ensure_ascii=False) + rest
