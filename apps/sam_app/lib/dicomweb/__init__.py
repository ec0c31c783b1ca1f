"""MONAI Label datastore for the studies of a DICOMweb server."""
