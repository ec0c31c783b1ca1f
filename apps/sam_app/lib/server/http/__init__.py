"""What every request passes, whichever route it is for: limits, checks, errors, headers."""
