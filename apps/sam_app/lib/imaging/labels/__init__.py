"""Labels: the voxel grid that they belong to, and writing them as files and DICOM objects."""
