"""How much faster one job becomes with more replicas of a stage that shares its work."""
