"""Image formats other than DICOM, and detection of a file's format."""
