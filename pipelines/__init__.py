"""Pipelines and presets as YAML, and `slip.py`, which loads them and makes a job's routing slip."""
