"""Power sources: one file (or folder) per kind of meter."""
