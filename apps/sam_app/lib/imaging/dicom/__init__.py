"""DICOM images read, and the DICOM objects that are made of them."""
