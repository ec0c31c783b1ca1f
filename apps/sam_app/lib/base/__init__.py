"""What every part of this app may use: it imports nothing of ours, and needs the standard library alone."""
