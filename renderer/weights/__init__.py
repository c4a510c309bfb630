"""Model files: which ones they are, and what they must be."""
