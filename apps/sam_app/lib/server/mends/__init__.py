"""Mends of MONAI Label 0.8.5's server, one fault or one group of like faults a file; each states what it mends.

The running app is changed, never an installed file. Where upstream mends a fault, its file and its line in
:func:`lib.server.mount.mount` go.
"""
