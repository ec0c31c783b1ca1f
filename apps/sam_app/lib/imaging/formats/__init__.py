"""The formats beside DICOM, and which one a file has."""
