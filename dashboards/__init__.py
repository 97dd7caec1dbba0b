"""Show stakeholders what a family offers: the front, its policies compared, and their answers."""
