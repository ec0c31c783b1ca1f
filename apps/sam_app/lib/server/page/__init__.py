"""The page at ``/sam/``."""
