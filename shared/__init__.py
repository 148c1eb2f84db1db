"""What every part of the mesh shares: contracts, ports, adapters and the worker runtime."""
