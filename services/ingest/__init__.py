"""URLs and uploads in, validated working images out."""
