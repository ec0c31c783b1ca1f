"""The protocol by which ITK-SNAP asks for segmentations: its DLS, for *deep learning segmentation*."""
