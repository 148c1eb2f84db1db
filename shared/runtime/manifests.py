"""Reading manifests: the step's (its commit point) and the attempts' that a chain names."""

from pydantic import ValidationError

from shared.contracts.manifest import ChainLink, Manifest
from shared.contracts.messages import StageMessage
from shared.errors import MeshworkError, ObjectCorrupt, ObjectMissing
from shared.runtime.patience import PatientStore
from shared.storage import keys


class CorruptInput(MeshworkError):
    """Stored data that a step needs is damaged or gone. `attempt` None: nobody can tell which attempt made it."""

    def __init__(self, key: str, position: int, attempt: str | None) -> None:
        self.key = key
        self.position = position
        self.attempt = attempt
        super().__init__(f"{key} is damaged or gone")


async def committed_manifest(store: PatientStore, message: StageMessage, position: int) -> Manifest | None:
    """The manifest that a step is committed with; None while there is none. Raises CorruptInput."""
    key = keys.step_manifest(message.job_id, position, message.slip.steps[position].name)
    try:
        data = await store.get(key)
    except ObjectMissing:
        return None
    except ObjectCorrupt as error:
        raise CorruptInput(key, position, None) from error
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise CorruptInput(key, position, None) from error
    if (manifest.job_id, manifest.position) != (message.job_id, position):
        raise CorruptInput(key, position, None)
    return manifest


async def attempt_manifest(store: PatientStore, job_id: str, link: ChainLink) -> Manifest:
    """The manifest of the attempt that a chain names. Raises CorruptInput."""
    key = keys.attempt_manifest(job_id, link.position, link.step, link.attempt)
    try:
        manifest = Manifest.model_validate_json(await store.get(key))
    except (ObjectMissing, ObjectCorrupt, ValidationError) as error:
        raise CorruptInput(key, link.position, link.attempt) from error
    if (manifest.job_id, manifest.link()) != (job_id, link):
        raise CorruptInput(key, link.position, link.attempt)
    return manifest


async def chain_of(store: PatientStore, previous: Manifest | None) -> tuple[Manifest, ...]:
    """The manifests of every earlier step, first to last, all of one chain: `previous` and what it was computed from."""
    if previous is None:
        return ()
    return (*[await attempt_manifest(store, previous.job_id, link) for link in previous.chain], previous)
