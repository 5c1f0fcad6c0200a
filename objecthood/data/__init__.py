"""Data sets of scenes: generated, rendered, or read from published files."""
