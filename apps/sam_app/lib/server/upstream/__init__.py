"""MONAI Label 0.8.5's own routes and habits as this server has them: one file for each thing that is mended."""
