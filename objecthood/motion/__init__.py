"""What moves: optical flow, motion fields, paths of pixels, tracks of slots, masks of moving objects."""

from objecthood.motion.tracking import Tracker, Tracks, track

__all__ = ["Tracker", "Tracks", "track"]
