"""Training of ``sam_tiny`` on synthetic images: scenes, prompts, loop, evaluation and model card."""
