"""Helpers for every part of this app: they import no other part; `scripts/keys` needs only the standard library."""
