"""MONAI Label datastore for a folder of images, and what it shares with that of a DICOMweb server."""
