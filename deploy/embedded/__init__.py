"""Everything in one process: broker in memory, files in a folder, SQLite. The same gateway, workers and webhooks as in the mesh."""
