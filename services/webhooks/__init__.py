"""Makes the signed calls that the gateway decided on. Knows the broker and the store, never the database."""
