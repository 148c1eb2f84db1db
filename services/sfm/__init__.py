"""Structure from motion: where each photo was taken, and with which lens."""
