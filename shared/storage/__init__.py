"""Artifacts: keys, and two stores behind one port."""
