"""Bytes that nobody vouches for become arrays: in worker processes, within a budget of memory and time."""
