"""MONAI Label task configurations: which inference tasks a model offers."""
