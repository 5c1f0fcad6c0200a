"""Limits on what a file or a request from someone else may ask for; `objecthood doctor` prints them.

Each is a bound on memory or time, far above what the published recipes need. Imports nothing.
"""

IMAGE_PIXELS = 50_000_000
"""Height x width of an image: above phones' (45 million), below files of a few kilobytes that unpack to
gigabytes."""
IMAGE_BYTES = 8 * IMAGE_PIXELS
"""Size of an image file: an uncompressed one of 16 bits and 4 channels."""
UPLOAD_PIXELS = 25_000_000
"""Height x width of an image sent to the demo's server."""
UPLOAD_BYTES = 10 * 2**20
"""Size of an image file sent to the demo's server."""
MASK_PIXELS = 2**26
"""Height x width of a run-length mask."""
RECORD_BYTES = 2**28
"""Size of one record of a TFRecord file."""
ARCHIVE_BYTES = 2_000_000_000
"""Unpacked size of an archive of arrays."""
ARCHIVE_ARRAYS = 10_000
"""Arrays in an archive."""
ARCHIVE_RATIO = 200
"""Unpacked size over packed size, of what is larger than 50 MB."""
HEADER_BYTES = 1_000_000
"""Size of a weight file's header, enough for ten thousand tensors (the format allows 100 MB)."""
BUFFER_BYTES = 2**28
"""Size of the tables that a model computes from its recipe and that no weight file holds."""
FROZEN_WEIGHTS = 2**32
"""Weights of the frozen parts of a model from a file (DINOv2's largest, ViT-g, has 1.1 billion)."""
RESOLUTION = 2048
"""Side of a model's images, in pixels."""
SLOTS = 256
"""Slots of a model: an index of a label image is one byte."""
ITERATIONS = 200
"""Iterations of Slot Attention (the paper uses 3 to 5)."""
RESTARTS = 128
"""Restarts of one image (published recipes use at most 8)."""
FRAMES = 10_000
"""Frames of a clip."""
SCENES = 1_000_000
"""Scenes that are scored."""
NAME_LENGTH = 100
"""Characters of a recipe's name, which becomes part of file names."""

TABLE: dict[str, str] = {
    "largest image": f"{IMAGE_PIXELS:,} pixels, {IMAGE_BYTES:,} bytes",
    "largest upload": f"{UPLOAD_PIXELS:,} pixels, {UPLOAD_BYTES:,} bytes, to the demo's server",
    "largest mask": f"{MASK_PIXELS:,} pixels",
    "largest record": f"{RECORD_BYTES:,} bytes of a TFRecord file",
    "largest archive": f"{ARCHIVE_BYTES:,} bytes, {ARCHIVE_RATIO} times its packed size, "
    f"{ARCHIVE_ARRAYS:,} arrays",
    "largest weight header": f"{HEADER_BYTES:,} bytes",
    "largest model tables": f"{BUFFER_BYTES:,} bytes beside the weights",
    "largest frozen parts": f"{FROZEN_WEIGHTS:,} weights, which no file of ours holds",
    "largest resolution": f"{RESOLUTION:,} pixels a side",
    "most slots": f"{SLOTS:,}",
    "most iterations": f"{ITERATIONS:,} of Slot Attention",
    "most restarts": f"{RESTARTS:,} of one image",
    "most frames": f"{FRAMES:,} of a clip",
    "most scenes": f"{SCENES:,} scored",
    "longest recipe name": f"{NAME_LENGTH:,} characters",
}
"""The limits in words, for `objecthood doctor`."""
