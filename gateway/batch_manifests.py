"""The manifests that a batch of facts needs, read before its transaction begins."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from loguru import logger
from pydantic import ValidationError
from sqlalchemy import func, select

from gateway.database.engine import Database
from gateway.database.models import StepRow
from gateway.folding import chain_keys
from gateway.news import Fact
from shared.contracts.events import StageCompleted, StageFailed
from shared.contracts.manifest import Manifest
from shared.errors import ObjectCorrupt, ObjectMissing
from shared.ports import ArtifactStore
from shared.storage import keys

_AT_ONCE = 16


async def read_manifests(database: Database, store: ArtifactStore, facts: Sequence[Fact]) -> dict[str, Manifest]:
    """By key: the manifests that facts about known jobs name, and those that they were computed from.

    Left out is what the store lacks or nobody can read. Raises DependencyUnavailable.
    """
    named = {fact.manifest: fact.job_id for fact in facts if isinstance(fact, StageCompleted | StageFailed)}
    if not named:
        return {}
    last_positions = await _last_positions(database, set(named.values()))
    wanted = [key for key, job_id in named.items() if job_id in last_positions and key.startswith(keys.job_prefix(job_id))]
    manifests = await _read_all(store, wanted)
    ending = {fact.manifest for fact in facts if _may_end(fact, last_positions)}
    chains = {link for key, manifest in manifests.items() if key in ending for link in chain_keys(manifest)}
    return manifests | await _read_all(store, sorted(chains - manifests.keys()))


def _may_end(fact: Fact, last_positions: Mapping[str, int]) -> TypeGuard[StageCompleted | StageFailed]:
    """Whether a job may end by this fact: only then is what happened before it filled in."""
    if isinstance(fact, StageFailed):
        return True
    return isinstance(fact, StageCompleted) and fact.position == last_positions.get(fact.job_id)


async def _last_positions(database: Database, job_ids: set[str]) -> dict[str, int]:
    """The last step of each job that exists."""
    query = select(StepRow.job_id, func.max(StepRow.position).label("last")).where(StepRow.job_id.in_(job_ids)).group_by(StepRow.job_id)
    async with database.read() as rows:
        return {row.job_id: int(row.last) for row in await rows.session.execute(query)}


async def _read_all(store: ArtifactStore, wanted: Sequence[str]) -> dict[str, Manifest]:
    turns = asyncio.Semaphore(_AT_ONCE)

    async def read(key: str) -> Manifest | None:
        async with turns:
            return await _read(store, key)

    found = await asyncio.gather(*(read(key) for key in wanted))
    return {key: manifest for key, manifest in zip(wanted, found, strict=True) if manifest is not None}


async def _read(store: ArtifactStore, key: str) -> Manifest | None:
    job_id = key.removeprefix(keys.JOBS).split("/", 1)[0]
    try:
        manifest = Manifest.model_validate_json(await store.get(key))
    except (ObjectMissing, ObjectCorrupt, ValidationError) as error:
        logger.error("the manifest {} cannot be read: {}", key, type(error).__name__)
        return None
    return manifest if manifest.job_id == job_id else None
