"""Reading medical images into :class:`~lib.imaging.image.MedicalImage` and writing what came of them."""
