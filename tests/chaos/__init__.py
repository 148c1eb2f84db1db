"""The whole mesh on real servers, hurt on purpose."""
