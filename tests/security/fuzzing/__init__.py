"""Fuzzing: requests, messages and files that nobody who wrote the code thought of."""
