"""Observability: the audit log, metrics, and logs that contain no patient data."""
