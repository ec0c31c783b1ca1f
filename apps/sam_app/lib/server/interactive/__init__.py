"""What the protocols share whose clients send an image once, and then mark an object on it step by step."""
