"""Strategies that say which image to label next."""
