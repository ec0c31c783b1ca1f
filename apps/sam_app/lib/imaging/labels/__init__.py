"""Labels: on which grid they lie, and as which files and DICOM objects they are written."""
