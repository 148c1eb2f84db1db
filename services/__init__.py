"""One folder per stage; each runs as its own process."""
