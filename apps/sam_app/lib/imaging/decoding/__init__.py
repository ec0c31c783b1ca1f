"""Decoding of untrusted bytes to arrays: in worker processes, within limits on memory and time."""
