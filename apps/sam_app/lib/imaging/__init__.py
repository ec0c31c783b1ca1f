"""Reading of medical images as :class:`~lib.imaging.image.MedicalImage`, and writing of results."""
