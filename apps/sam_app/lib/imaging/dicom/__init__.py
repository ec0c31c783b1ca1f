"""Reading of DICOM images, and the DICOM objects that are derived from them."""
