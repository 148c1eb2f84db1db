"""How much the mesh takes: jobs a second at the gateway's door, and many jobs through all six stages."""
