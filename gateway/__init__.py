"""The only HTTP surface, and the only user of the database."""
