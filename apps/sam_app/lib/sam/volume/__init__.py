"""Segmentation of an object through a volume, from prompts on some of its slices."""
