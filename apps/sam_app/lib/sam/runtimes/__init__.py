"""Runtimes of a model's networks: PyTorch or OpenVINO, with the same output."""
