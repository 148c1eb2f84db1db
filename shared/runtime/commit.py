"""Making a step durable whose outputs are: the attempt's manifest, then the step's manifest, which decides."""

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.runtime.manifests import CorruptInput, committed_manifest
from shared.runtime.patience import PatientStore
from shared.storage import keys


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
