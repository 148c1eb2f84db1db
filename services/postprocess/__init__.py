"""Turns a dense cloud, cameras and photos into one clean, textured mesh."""
