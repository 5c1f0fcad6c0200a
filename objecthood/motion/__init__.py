"""Motion: optical flow, motion fields, pixel trajectories, tracks of slots, masks of moving objects."""

from objecthood.motion.tracking import Tracker, Tracks, track

__all__ = ["Tracker", "Tracks", "track"]
