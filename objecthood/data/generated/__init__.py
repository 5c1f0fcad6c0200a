"""Scenes that are drawn as they are needed: a function of seed and index."""
