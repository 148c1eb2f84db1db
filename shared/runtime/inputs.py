"""What a step reads: the request, uploads, and the outputs of earlier steps, through the chain alone and verified by sha256."""

import asyncio
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pydantic import ValidationError

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.contracts.request import JobRequest
from shared.contracts.split import RoundMade
from shared.errors import ObjectCorrupt, ObjectMissing, TransientError
from shared.runtime.manifests import CorruptInput
from shared.runtime.metrics import TRANSFERRED
from shared.runtime.patience import PatientStore
from shared.runtime.workspace import PARTS
from shared.storage import keys

Value = TypeVar("Value")

_SPECIAL = frozenset("*?[")  # to fnmatch
UPLOADS = "images"  # in a stage's `needs`: what callers uploaded


@dataclass(frozen=True)
class InputFile:
    """One object to fetch. `name` is its path below `folder`; `attempt` made it (None: the caller did, or a part)."""

    key: str
    name: str
    sha256: str | None
    position: int
    attempt: str | None
    folder: str = "inputs"


async def read_request(store: PatientStore, message: StageMessage) -> JobRequest:
    """What was asked. The relay writes it before the first publish, so its absence passes or the job is gone."""
    key = keys.request(message.job_id)
    try:
        return JobRequest.model_validate_json(await store.get(key))
    except ObjectMissing as error:
        raise TransientError(f"{key} is not there") from error
    except (ObjectCorrupt, ValidationError) as error:
        raise CorruptInput(key, message.position, None) from error


def files_needed(
    message: StageMessage, request: JobRequest, chain: Sequence[Manifest], needs: Mapping[str, tuple[str, ...]]
) -> list[InputFile]:
    """The objects that the stage declared to need. Raises CorruptInput for a name that would leave the folder."""
    files = _uploads(message, request) if UPLOADS in needs else []
    stages = [manifest.stage for manifest in chain]
    for manifest in chain:
        is_needed = _matcher(_patterns(needs, manifest.stage, stages))
        for output in manifest.outputs:
            if is_needed(output.name):
                key = keys.attempt_file(manifest.job_id, manifest.position, manifest.step, manifest.attempt, output.name)
                name = f"{manifest.stage}/{output.name}"
                files.append(InputFile(key, name, output.sha256, manifest.position, manifest.attempt))
    return _all_inside(files)


def part_outputs(
    message: StageMessage, made: RoundMade, patterns: Sequence[str] = ("*",), parts: Container[str] | None = None
) -> list[InputFile]:
    """What parts of an earlier round made: of all of them, or of those named. Raises CorruptInput as `files_needed` does."""
    job_id, position, step = message.job_id, message.position, message.step.name
    files, is_needed = [], _matcher(patterns)
    for part in made.parts:
        for output in part.outputs if parts is None or part.part in parts else ():
            if is_needed(output.name):
                key = keys.part_file(job_id, position, step, made.split, part.part, part.attempt, output.name)
                files.append(InputFile(key, f"{made.round}/{part.part}/{output.name}", output.sha256, position, None, PARTS))
    return _all_inside(files)


def rounds_outputs(message: StageMessage, rounds: Sequence[RoundMade], needs: Mapping[str, tuple[str, ...]]) -> list[InputFile]:
    """What earlier rounds made, by `needs["parts/<round>"]`. Raises CorruptInput as `files_needed` does."""
    return [file for made in rounds for file in part_outputs(message, made, needs.get(f"{PARTS}/{made.round}", ()))]


async def fetch(store: PatientStore, root: Path, files: Iterable[InputFile], at_once: int, stage: str) -> None:
    """Writes the files below `root`. Raises CorruptInput."""
    turns = asyncio.Semaphore(at_once)

    async def fetch_one(file: InputFile) -> None:
        async with turns:
            try:
                size = await store.download(file.key, root / file.folder / file.name, file.sha256)
            except (ObjectCorrupt, ObjectMissing) as error:
                raise CorruptInput(file.key, file.position, file.attempt) from error
            TRANSFERRED.labels(stage, "download").inc(size)

    await all_or_first_error(fetch_one(file) for file in files)


def write_context(root: Path, request: JobRequest, chain: Sequence[Manifest]) -> None:
    """`request.json` and `steps.json` of a workspace."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "request.json").write_bytes(request.to_bytes())
    (root / "steps.json").write_bytes(b"[" + b",".join(manifest.to_bytes() for manifest in chain) + b"]")


def digest_inputs(message: StageMessage, request: JobRequest, files: Iterable[InputFile]) -> list[tuple[str, str]]:
    """What the step's outputs depend on beside stage, version and params: names and sha256, or where there is none, what was named."""
    inputs = [(file.name, file.sha256 or file.key) for file in files]
    if message.position == 0:
        inputs += [(f"{UPLOADS}/{index:03d}_{image.name}", image.url) for index, image in enumerate(request.images) if image.url]
    if message.slip.is_last(message.position):
        inputs.append(("request/outputs", ",".join(sorted(request.outputs))))
        inputs.append(("request/preset", f"{request.pipeline} {request.preset}"))  # the report names them
    if message.reduction:  # computed at a lower resolution: not what another job with the same inputs should get
        inputs.append(("reduction", str(message.reduction)))
    return inputs


async def all_or_first_error(coroutines: Iterable[Coroutine[Any, Any, Value]]) -> list[Value]:
    """What each gives, in order; the first error ends the others and is raised as it is."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name matches one of the patterns. Most are names themselves, and there may be thousands of both."""
    names = {pattern for pattern in patterns if not _SPECIAL & set(pattern)}
    others = [pattern for pattern in patterns if pattern not in names]
    return lambda name: name in names or any(fnmatchcase(name, pattern) for pattern in others)


def _patterns(needs: Mapping[str, tuple[str, ...]], stage: str, stages: Sequence[str]) -> list[str]:
    """Of the outputs of `stage` that are needed. What is needed of `a|b` is of the first of them that is among `stages`."""
    chosen = {asked: next((name for name in asked.split("|") if name in stages), None) for asked in needs}
    return [pattern for asked, patterns in needs.items() if chosen[asked] == stage for pattern in patterns]


def _uploads(message: StageMessage, request: JobRequest) -> list[InputFile]:
    return [
        InputFile(image.key, f"{UPLOADS}/{index:03d}_{image.name}", image.sha256, message.position, None)
        for index, image in enumerate(request.images)
        if image.key is not None
    ]


def _all_inside(files: list[InputFile]) -> list[InputFile]:
    for file in files:
        if not is_inside(file.name):
            raise CorruptInput(file.key, file.position, file.attempt)
    return files


def is_inside(name: str) -> bool:
    """Whether a relative path, with forward slashes, stays in its folder."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and "\\" not in name
