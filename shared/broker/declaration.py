"""Declares the topology over AMQP: exchanges, queues and bindings. Policies come with the definitions that the broker loads."""

from aio_pika.abc import AbstractConnection

from shared.broker.topology import QUEUE_ARGUMENTS, Topology


async def declare(connection: AbstractConnection, topology: Topology) -> None:
    """Makes what is missing; what is there with other arguments raises."""
    async with connection.channel() as channel:
        for exchange in topology.exchanges:
            await channel.declare_exchange(exchange, "topic", durable=True)
        for spec in topology.queues:
            queue = await channel.declare_queue(spec.name, durable=True, arguments=dict(QUEUE_ARGUMENTS))
            for source, key in spec.bindings:
                await queue.bind(source, key)
