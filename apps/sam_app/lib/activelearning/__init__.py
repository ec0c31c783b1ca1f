"""Strategies that choose the image to label next."""
