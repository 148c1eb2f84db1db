"""Requests to addresses that callers named: which ones are allowed, and a client that reaches no other."""
