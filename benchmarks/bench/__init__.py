"""The speed of this server, each figure beside that of a named peer in the same run; ``scripts/bench`` runs it.

``row`` says what a row and its result are, ``catalogue`` lists the rows, ``runner`` runs them, ``report`` prints and
writes what came of them. ``encoder_rows`` to ``gpu_rows`` measure; ``workplace``, ``server`` and ``peers`` are what
they measure with.
"""
