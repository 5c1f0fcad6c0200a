"""Models, one file per paper, composed of `objecthood.nn`."""

from objecthood.models.autoencoder import SlotAutoencoder
from objecthood.models.base import SlotModel, SlotOutput
from objecthood.models.video import SlotVideo

__all__ = ["SlotAutoencoder", "SlotModel", "SlotOutput", "SlotVideo"]
