"""The studies of a DICOMweb server, as a MONAI Label datastore."""
