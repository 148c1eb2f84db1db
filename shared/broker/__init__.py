"""RabbitMQ and its twin in memory, behind `shared.ports.Broker`; the topology; the five ways to settle a delivery."""
