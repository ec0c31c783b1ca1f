"""What every room of this app may use: it imports nothing of ours, and `scripts/keys` runs on the standard library."""
