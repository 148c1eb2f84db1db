"""How Meshwork is run: embedded, as native processes, in containers."""
