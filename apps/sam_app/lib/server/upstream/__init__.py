"""Fixes of MONAI Label, one file for each; :mod:`~lib.server.upstream.faults` is their table."""
