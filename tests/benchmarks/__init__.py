"""Measurements: run by hand (`make bench`), figures kept beside the code that printed them."""
