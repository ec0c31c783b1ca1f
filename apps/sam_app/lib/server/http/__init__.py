"""What applies to every request on every route: limits, checks, errors, headers."""
