"""Writes the deliverables of a job: models, clouds, cameras, preview and report."""
