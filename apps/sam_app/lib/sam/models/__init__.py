"""The models: their architectures, and the location, download and verification of their checkpoints."""
