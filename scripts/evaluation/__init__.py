"""How good a model is: cases, simulated users, what knows nothing of the image, figures and their report."""
