"""MONAI Label inference tasks: one per way of inference, each for any SAM model."""
