"""Steps of a retried job that need not be computed again: their digest is unchanged, so their outputs are copied on the store's side."""

import asyncio

from loguru import logger

from shared.contracts.manifest import Manifest
from shared.contracts.messages import StageMessage
from shared.errors import ObjectMissing
from shared.runtime.inputs import all_or_first_error
from shared.runtime.manifests import CorruptInput, committed_manifest
from shared.runtime.patience import PatientStore
from shared.storage import keys


async def copy_step(store: PatientStore, message: StageMessage, parent: str, digest: str, attempt: str, at_once: int) -> Manifest | None:
    """Copies the parent's outputs of this step to `attempt`; the parent's manifest, or None where the step must be computed.

    That is: the parent never completed it, made it from something else, or was deleted before everything was copied.
    """
    try:
        found = await committed_manifest(store, message.model_copy(update={"job_id": parent}), message.position)
    except CorruptInput as error:
        logger.warning("the step is computed, not copied: {}", error)
        return None
    if found is None or found.error is not None or found.digest != digest:
        return None
    turns = asyncio.Semaphore(at_once)

    async def copy_one(name: str) -> None:
        source = keys.attempt_file(parent, found.position, found.step, found.attempt, name)
        async with turns:
            await store.copy(source, keys.attempt_file(message.job_id, message.position, message.step.name, attempt, name))

    try:
        await all_or_first_error(copy_one(output.name) for output in found.outputs)
    except ObjectMissing as error:
        logger.warning("the step is computed, not copied: {}", error)
        return None
    return found
