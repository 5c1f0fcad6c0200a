"""Papers: one file each, composed of `objecthood.nn`."""

from objecthood.models.autoencoder import SlotAutoencoder

__all__ = ["SlotAutoencoder"]
