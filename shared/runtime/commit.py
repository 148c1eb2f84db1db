"""Making a step's results durable: outputs, then the attempt's manifest, then the step's manifest, which decides."""

import asyncio
import mimetypes
from collections.abc import Callable
from pathlib import Path

from shared.contracts.artifacts import ARTIFACTS
from shared.contracts.manifest import Manifest, OutputFile
from shared.contracts.messages import StageMessage
from shared.runtime.inputs import all_or_first_error
from shared.runtime.manifests import CorruptInput, committed_manifest
from shared.runtime.metrics import TRANSFERRED
from shared.runtime.patience import PatientStore
from shared.storage import keys

_MANIFEST = "manifest.json"
_TYPES = {".ply": "application/octet-stream", ".npz": "application/octet-stream", ".glb": "model/gltf-binary"}


async def upload_outputs(
    store: PatientStore, outputs: Path, key_of: Callable[[str], str], at_once: int, stage: str
) -> tuple[OutputFile, ...]:
    """Every file below `outputs`, under the key that its name has."""
    turns = asyncio.Semaphore(at_once)
    uploaded: list[OutputFile] = []

    async def upload_one(path: Path) -> None:
        name = path.relative_to(outputs).as_posix()
        async with turns:
            stored = await store.upload(path, key_of(name), content_type(name))
        uploaded.append(OutputFile(name=name, bytes=stored.bytes, sha256=stored.sha256, content_type=content_type(name)))
        TRANSFERRED.labels(stage, "upload").inc(stored.bytes)

    await all_or_first_error(upload_one(path) for path in _files_below(outputs))
    return tuple(sorted(uploaded, key=lambda output: output.name))


async def commit(store: PatientStore, message: StageMessage, manifest: Manifest) -> Manifest:
    """Commits an attempt; returns the manifest that the step has now: another attempt's when that was first."""
    await store.put(keys.attempt_manifest(manifest.job_id, manifest.position, manifest.step, manifest.attempt), manifest.to_bytes())
    try:
        first = await committed_manifest(store, message, manifest.position)
    except CorruptInput:
        first = None  # nobody can have used it: overwritten
    if first is not None:
        return first
    await store.put(keys.step_manifest(manifest.job_id, manifest.position, manifest.step), manifest.to_bytes())
    return manifest


def content_type(name: str) -> str:
    """The media type of an output."""
    if name in ARTIFACTS:
        return ARTIFACTS[name][1]
    return _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _files_below(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if folder / _MANIFEST in files:
        raise ValueError("a stage must not write outputs/manifest.json: the name is the runtime's")
    return files
