"""What the gateway lets in. Checks run in this order, and the first one that finds something answers with everything it found:

1. the body is a JSON object that every parser reads alike (door_json)
2. no more links than photos are taken                        TOO_MANY_IMAGES
3. shape: known fields of the right types                     VALIDATION_FAILED
4. number of photos                                           TOO_FEW_IMAGES, TOO_MANY_IMAGES
5. meaning: pipeline, preset, outputs, options, metadata, URLs   VALIDATION_FAILED
6. no URL is a private address                                UNSAFE_URL

Everything runs on the event loop, so that whatever a caller may send many of is bounded before it is looked at one by one.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gateway.door_json import levels_of
from gateway.problems import MAX_ERRORS, FieldError, Loc, Problem, field_problem, invalid
from gateway.schemas import ENDINGS, ReconstructRequest, RetryRequest, UploadRequest
from pipelines.definition import Pipeline
from pipelines.options import StageOptions
from pipelines.slip import InvalidOptions, build_slip
from shared.bundles import promises_a_bundle
from shared.contracts.artifacts import REPORT
from shared.contracts.slip import RoutingSlip
from shared.errors import UnsafeAddress
from shared.http.addresses import AddressPolicy, check_url

MAX_METADATA_BYTES = 64 << 10
MAX_METADATA_LEVELS = 32
MAX_IDNA_HOSTS = 32  # of one request's photos: each costs up to a millisecond
BODY = ("body",)
_JSON_WORDS = {  # pydantic's messages that speak Python, by their type
    "dict_type": "Input should be a valid object",
    "model_type": "Input should be a valid object",
    "list_type": "Input should be a valid array",
    "none_required": "Input should be null",
}

_HOST = re.compile(r"[^:/?#]*://([^/?#]*)")

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class CheckedRequest:
    """A request that may become a job. `image_urls` is empty for uploads."""

    slip: RoutingSlip
    outputs: tuple[str, ...]
    options: dict[str, Any]
    metadata: dict[str, Any]
    callback_url: str | None
    callback_events: tuple[str, ...]
    image_urls: tuple[str, ...] = ()
    priority: int = 0


@dataclass(frozen=True)
class Door:
    """Checks requests against what this installation offers and allows."""

    pipelines: Mapping[str, Pipeline]
    stages: Mapping[str, StageOptions]
    policy: AddressPolicy
    min_images: int = 3
    max_images: int = 1000
    _plain: dict[tuple[str, str], RoutingSlip] = field(default_factory=dict, init=False)  # (pipeline, preset) -> the slip without options

    def check_links(self, body: Mapping[str, Any]) -> CheckedRequest:
        """A request with `image_urls`. Raises Problem."""
        loc = (*BODY, "image_urls")
        if isinstance(given := body.get("image_urls"), list):
            self._check_most(len(given), loc)
        asked = _shaped(ReconstructRequest, body, BODY)
        bundles = any(promises_a_bundle(url) for url in asked.image_urls[: self.min_images])
        self.check_count(len(asked.image_urls), bundles, loc)
        _check_hosts(asked.image_urls, loc)
        return self._checked(asked, tuple(asked.image_urls), BODY)

    def check_upload(self, body: Mapping[str, Any], loc: Loc = BODY) -> CheckedRequest:
        """A request whose photos are uploaded with it. Raises Problem."""
        return self._checked(_shaped(UploadRequest, body, loc), (), loc)

    def check_retry(self, body: Mapping[str, Any], earlier: Mapping[str, Any]) -> CheckedRequest:
        """What `body` asks for beyond `earlier`, the fields of an UploadRequest that was accepted once. Raises Problem.

        All of it is checked again: pipelines and allowed addresses may have changed since.
        """
        given = _shaped(RetryRequest, body, BODY).model_dump(exclude_unset=True)
        before = dict(earlier)
        pipeline = self.pipelines.get(given.get("pipeline") or before["pipeline"])
        if pipeline is not None and pipeline.name != before["pipeline"]:
            del before["outputs"]
            before["options"] = {step.name: before["options"][step.name] for step in pipeline.steps if step.name in before["options"]}
        return self._checked(_shaped(UploadRequest, before | given | {"options": _merged(before, given)}, BODY), (), BODY)

    def check_count(self, photos: int, bundles: bool, loc: Loc) -> None:
        """Raises Problem when a job may not have this many photos. With `bundles`, files of many photos, ingest counts what they hold."""
        if photos < self.min_images and not bundles:
            raise field_problem("TOO_FEW_IMAGES", loc, f"{photos} photos are too few; at least {self.min_images} are needed", "too_short")
        self._check_most(photos, loc)

    def _check_most(self, photos: int, loc: Loc) -> None:
        if photos > self.max_images:
            raise field_problem("TOO_MANY_IMAGES", loc, f"{photos} photos are too many; at most {self.max_images} are taken", "too_long")

    def _checked(self, asked: UploadRequest, image_urls: tuple[str, ...], loc: Loc) -> CheckedRequest:
        slip, errors = self._slip_or_errors(asked, loc)
        errors += [*_metadata_errors(asked.metadata, loc)]
        unsafe: list[FieldError] = []
        for place, url in _urls_of(asked, image_urls, loc):
            if len(errors) >= MAX_ERRORS:
                break
            self._check_url(url, place, errors, unsafe)
        if errors or slip is None:
            raise invalid(errors)
        if unsafe:
            raise Problem("UNSAFE_URL", unsafe[0].msg, unsafe)
        pipeline = self.pipelines[asked.pipeline]
        return CheckedRequest(
            slip=slip,
            outputs=_wanted(asked.outputs, pipeline),
            options=dict(asked.options),
            metadata=asked.metadata,
            callback_url=asked.callback_url,
            callback_events=tuple(dict.fromkeys(ENDINGS if asked.callback_events is None else asked.callback_events)),
            image_urls=image_urls,
            priority=int(asked.priority == "high"),
        )

    def _slip_or_errors(self, asked: UploadRequest, loc: Loc) -> tuple[RoutingSlip | None, list[FieldError]]:
        pipeline = self.pipelines.get(asked.pipeline)
        if pipeline is None:
            return None, [_no_such((*loc, "pipeline"), "pipeline", asked.pipeline, self.pipelines)]
        errors = [
            _no_such((*loc, "outputs", index), "output", name, pipeline.outputs)
            for index, name in enumerate(asked.outputs or ())
            if name not in pipeline.outputs
        ]
        if asked.preset not in pipeline.presets:
            return None, [*errors, _no_such((*loc, "preset"), "preset", asked.preset, pipeline.presets)]
        try:
            return self._slip(pipeline, asked), errors
        except InvalidOptions as error:
            found = [FieldError(loc=[*loc, "options", *f.path], msg=f.message, type=f.type) for f in error.faults]
            return None, errors + found

    def _slip(self, pipeline: Pipeline, asked: UploadRequest) -> RoutingSlip:
        """Most requests have no options: their slips are made once."""
        if asked.options:
            return build_slip(pipeline, asked.preset, asked.options, self.stages)
        if (pipeline.name, asked.preset) not in self._plain:
            self._plain[pipeline.name, asked.preset] = build_slip(pipeline, asked.preset, {}, self.stages)
        return self._plain[pipeline.name, asked.preset]

    def _check_url(self, url: str, place: Loc, errors: list[FieldError], unsafe: list[FieldError]) -> None:
        try:
            check_url(url, self.policy)
        except UnsafeAddress as error:
            unsafe.append(FieldError(loc=list(place), msg=str(error), type="unsafe_url"))
        except ValueError as error:
            errors.append(FieldError(loc=list(place), msg=str(error), type="url_parsing"))


def _shaped(model: type[Model], body: Mapping[str, Any], loc: Loc) -> Model:
    known = [name for name in model.model_fields if name in body]
    unknown = islice((name for name in body if name not in model.model_fields), MAX_ERRORS)
    try:
        return model.model_validate({name: body[name] for name in (*known, *unknown)})
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)[:MAX_ERRORS]
        faults = [FieldError(loc=[*loc, *e["loc"]], msg=_JSON_WORDS.get(e["type"], e["msg"]), type=e["type"]) for e in found]
        raise invalid(faults) from None


def _check_hosts(urls: Iterable[str], loc: Loc) -> None:
    """Raises Problem when the names of very many hosts would have to be put into ASCII."""
    found = (_HOST.match(url) for url in urls if not url.isascii())
    if len({host[1] for host in found if host and not host[1].isascii()}) > MAX_IDNA_HOSTS:
        msg = f"at most {MAX_IDNA_HOSTS} hosts may have names that are not ASCII; write them as xn--…"
        raise field_problem("VALIDATION_FAILED", loc, msg, "too_long")


def _merged(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Options by step, those given over those before."""
    old, new = before["options"], given.get("options") or {}
    return {step: {**old.get(step, {}), **new.get(step, {})} for step in (*old, *(step for step in new if step not in old))}


def _no_such(loc: Loc, kind: str, name: str, known: Iterable[str]) -> FieldError:
    return FieldError(loc=list(loc), msg=f"there is no {kind} {name[:64]!r}; there are {', '.join(known)}", type="enum")


def _metadata_errors(metadata: Mapping[str, Any], loc: Loc) -> Iterator[FieldError]:
    if levels_of(metadata) > MAX_METADATA_LEVELS:
        yield FieldError(loc=[*loc, "metadata"], msg=f"may have {MAX_METADATA_LEVELS} levels", type="too_deep")
    elif len(json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()) > MAX_METADATA_BYTES:
        yield FieldError(loc=[*loc, "metadata"], msg=f"may have {MAX_METADATA_BYTES} bytes", type="too_long")


def _urls_of(asked: UploadRequest, image_urls: Iterable[str], loc: Loc) -> Iterator[tuple[Loc, str]]:
    """Every URL that a service would call for this request, with its place."""
    yield from (((*loc, "image_urls", index), url) for index, url in enumerate(image_urls))
    if asked.callback_url is not None:
        yield (*loc, "callback_url"), asked.callback_url
    yield from _urls_in(asked.options, (*loc, "options"))


def _urls_in(value: Any, place: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _urls_in(inner, (*place, name))
    elif isinstance(value, str) and value.lower().startswith(("http://", "https://")):
        yield place, value


def _wanted(outputs: list[str] | None, pipeline: Pipeline) -> tuple[str, ...]:
    """In the pipeline's order, the report always among them."""
    asked = pipeline.outputs if outputs is None else {*outputs, REPORT}
    return tuple(name for name in pipeline.outputs if name in asked)
