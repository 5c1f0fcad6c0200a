"""Papers: one file each, composed of `objecthood.nn`."""

from objecthood.models.autoencoder import SlotAutoencoder
from objecthood.models.video import SlotVideo

__all__ = ["SlotAutoencoder", "SlotVideo"]
