"""The only HTTP surface, and the only user of the database."""

__version__ = "0.1.0"
