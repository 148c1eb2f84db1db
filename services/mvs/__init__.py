"""Dense stereo on the CPU: cameras and images in, depth maps and an oriented cloud out."""
