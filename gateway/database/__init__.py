"""Rows: jobs, steps, outbox, deliveries. SQLite when embedded, PostgreSQL in the mesh."""
