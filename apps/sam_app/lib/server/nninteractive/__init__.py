"""nnInteractive's HTTP protocol, as 3D Slicer's and napari's plugins of that name speak it."""
