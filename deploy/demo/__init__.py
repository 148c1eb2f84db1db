"""A sample capture with exact truth, and the score of a model against it."""
