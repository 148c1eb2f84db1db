"""The protocol under a seeded scheduler, a virtual clock and injected faults: `make simulate SEEDS=1000`."""
