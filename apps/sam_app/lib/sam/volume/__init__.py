"""From prompts on some slices to an object through a volume."""
