"""What mends MONAI Label, one file for each thing; :mod:`~lib.server.upstream.faults` is the table of them."""
