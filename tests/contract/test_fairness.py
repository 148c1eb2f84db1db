"""Who has many jobs does not make others wait, on SQLite and on PostgreSQL."""

from collections import Counter

from sqlalchemy import select

from gateway.database.admission import admit, the_front, the_line
from gateway.database.engine import Database
from gateway.database.models import IN_FLIGHT, Job
from tests.support.gateway_rows import insert, new_job

IN_THE_STAGES = 4  # of one tenant at a time


async def let_in(database: Database, limit: int = 32) -> None:
    """One round of the relay."""
    async with database.write() as rows:
        await admit(rows, IN_THE_STAGES, limit)


async def in_the_stages(database: Database) -> Counter[str]:
    """Jobs in flight, by tenant."""
    async with database.read() as rows:
        return Counter(await rows.session.scalars(select(Job.tenant).where(IN_FLIGHT)))


async def end_one(database: Database, tenant: str) -> None:
    """The tenant's oldest job in the stages completes."""
    async with database.write() as rows:
        query = select(Job).where(IN_FLIGHT, Job.tenant == tenant).order_by(Job.admitted_at).limit(1)
        (await rows.session.scalars(query)).one().status = "completed"


async def test_one_job_goes_at_once_however_many_another_tenant_has_waiting(database: Database) -> None:
    """It waits for no place: those that the other one has in the stages are all that he may have."""
    for _ in range(50):
        await insert(database, new_job("many"))
    await let_in(database)
    assert await in_the_stages(database) == {"many": IN_THE_STAGES}
    await insert(database, new_job("one"))
    await let_in(database)
    assert await in_the_stages(database) == {"many": IN_THE_STAGES, "one": 1}


async def test_places_that_become_free_go_round(database: Database) -> None:
    """Two at a time are let in: the tenant with fewer in the stages is first, whoever came first."""
    for tenant in ("many",) * 20 + ("few",) * 3:
        await insert(database, new_job(tenant))
    await let_in(database, limit=2)
    assert await in_the_stages(database) == {"many": 1, "few": 1}
    await let_in(database, limit=2)
    assert await in_the_stages(database) == {"many": 2, "few": 2}
    await end_one(database, "few")
    await let_in(database, limit=1)
    assert await in_the_stages(database) == {"many": 2, "few": 2}
    await end_one(database, "many")
    await let_in(database, limit=2)
    assert await in_the_stages(database) == {"many": 3, "few": 2}


async def test_who_has_all_that_he_may_have_is_not_counted(database: Database) -> None:
    """And what is let in is the same as if everybody were."""
    for tenant, priority in (("many", 0),) * 12 + (("many", 1), ("one", 0), ("few", 1), ("few", 0)):
        await insert(database, new_job(tenant, priority=priority))
    for limit in (1, 3, 4, 2):
        async with database.read() as rows:
            front, line = await the_front(rows, IN_THE_STAGES), await the_line(rows)
        assert front.next_in(IN_THE_STAGES, limit) == line.next_in(IN_THE_STAGES, limit)
        await let_in(database, limit)
    assert (await in_the_stages(database))["many"] == IN_THE_STAGES
    async with database.read() as rows:
        assert (await the_front(rows, IN_THE_STAGES)).waiting == {} and (await the_line(rows)).waiting == {("many", 0): 9}
