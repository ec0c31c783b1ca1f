"""MONAI Label inference tasks: one way of inferring each, for any SAM model."""
