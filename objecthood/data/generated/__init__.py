"""Scenes generated on the fly from seed and index."""
