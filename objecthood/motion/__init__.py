"""What moves: optical flow, motion fields, paths of pixels, tracks of slots, masks of moving objects."""
