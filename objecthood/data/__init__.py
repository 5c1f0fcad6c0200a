"""Scenes: made here or read from published files."""
