"""What to do about damaged inputs: take back every step that used them, and have the earliest one computed again."""

from pydantic import ValidationError

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.errors import ObjectCorrupt, ObjectMissing
from shared.runtime.manifests import CorruptInput
from shared.runtime.patience import PatientStore
from shared.storage import keys

MAX_FINDINGS = 3  # the third is permanent: the store is broken, not an object


async def take_back(store: PatientStore, message: StageMessage, finding: CorruptInput) -> StageMessage:
    """Removes what names the corrupt attempt, from the finder's step down to its maker's; returns the message to publish."""
    for position in range(message.position, finding.position - 1, -1):
        key = keys.step_manifest(message.job_id, position, message.slip.steps[position].name)
        if await _uses(store, key, finding):
            await store.delete([key])
    counted = message.whole().model_copy(update={"corrupt_findings": message.corrupt_findings + 1})
    for position in range(message.position):
        if not await store.exists(keys.step_manifest(message.job_id, position, message.slip.steps[position].name)):
            return counted.at(position)
    return counted


async def _uses(store: PatientStore, key: str, finding: CorruptInput) -> bool:
    """Whether a step's manifest is, or was computed from, what is damaged. One that nobody can read is."""
    try:
        manifest = Manifest.model_validate_json(await store.get(key))
    except ObjectMissing:
        return False
    except (ObjectCorrupt, ValidationError):
        return True
    links = (*manifest.chain, manifest.link())
    return any((link.position, link.attempt) == (finding.position, finding.attempt) for link in links)
