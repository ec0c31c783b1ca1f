"""Encoding by processes of Ray Serve instead of this one: their start, and what runs in them."""
