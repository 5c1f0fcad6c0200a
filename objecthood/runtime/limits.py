"""Limits on untrusted files and requests, in memory or time; `objecthood doctor` prints them.

All are far above the needs of published recipes. Imports nothing.
"""

IMAGE_PIXELS = 50_000_000
"""Height x width of an image: above phones' (45 million), below files of a few kilobytes that unpack to
gigabytes."""
IMAGE_BYTES = 8 * IMAGE_PIXELS
"""Size of an image file: an uncompressed one of 16 bits and 4 channels."""
TILE_PIXELS = 2**24
"""Height x width of a TIFF tile: 4096 x 4096 (typical sides are 256 and 512). It is decoded as a whole."""
JPEG_SCANS = 100
"""Scans of a progressive JPEG (encoders write about 10). A decoder passes over all pixels at each."""
JPEG_SCAN_PIXELS = 16 * IMAGE_PIXELS
"""Scans x height x width of a JPEG: the time that decoding takes."""
HEIC_PASSES = 16
"""Pixels of all HEVC slices of a HEIC image, over those allowed: the time that decoding takes."""
RUN_LENGTH_PIXELS = 2**22
"""Pixels of a BMP in run-length code, which Pillow decodes byte by byte."""
UPLOAD_PIXELS = 25_000_000
"""Height x width of an image sent to the demo's server."""
UPLOAD_BYTES = 10 * 2**20
"""Size of an image file sent to the demo's server."""
REQUESTS = 16
"""Requests to the demo's server that are read, waiting or answered at a time."""
CONNECTIONS = 256
"""Connections to the demo's server (fewer where the system allows fewer than four times as many files)."""
REQUEST_HEAD_BYTES = 16 * 1024
"""Size of the head of a request."""
CHUNKS = 10_000
"""Pieces of a request's body (a browser sends none, curl one for 8 to 64 kilobytes)."""
HEAD_SECONDS = 10.0
"""In which the head of a request must be complete, from the connection's start or the last answer's end."""
UPLOAD_SECONDS = 20.0
"""In which an upload must be complete."""
EXCHANGE_SECONDS = 120.0
"""In which a request must be read, have had its turn, be answered, and its answer be taken."""
MASK_PIXELS = 2**26
"""Height x width of a run-length mask."""
OBJECTS = 32_767
"""Objects of an image, and classes, in COCO's annotations: a label is a number of 16 bits."""
MASK_WORK = 2**31
"""Pixels from the first to the last column of each object, summed over an image: the time of drawing it."""
OUTLINE_PIXELS = 20_000_000
"""Length of all polygons of an image, in pixels: the time of reading them."""
TAR_HEADER_BYTES = 2**20
"""Size of a long name or of further attributes in a tar file, which are read at once."""
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
RUNS = 10_000
"""Runs of a sweep or a leaderboard, and values of a range."""
SETTING_LENGTH = 1000
"""Characters of a recipe's setting, name and value, as it would stand in an error message."""
JSON_DEPTH = 64
"""Lists and objects inside each other in a JSON file."""
NAME_LENGTH = 100
"""Characters of a recipe's name, which becomes part of file names."""

TABLE: dict[str, str] = {
    "largest image": f"{IMAGE_PIXELS:,} pixels, {IMAGE_BYTES:,} bytes",
    "largest tile": f"{TILE_PIXELS:,} pixels of a TIFF",
    "largest BMP in run-length code": f"{RUN_LENGTH_PIXELS:,} pixels",
    "most scans": f"{JPEG_SCANS:,} of a JPEG, {JPEG_SCAN_PIXELS:,} pixels in all",
    "most HEVC slices": f"of a HEIC image, {HEIC_PASSES} times the pixels allowed",
    "largest upload": f"{UPLOAD_PIXELS:,} pixels, {UPLOAD_BYTES:,} bytes, to the demo's server",
    "demo's server": f"{CONNECTIONS:,} connections, {REQUESTS:,} requests at a time, {CHUNKS:,} chunks, "
    f"{HEAD_SECONDS:.0f} s for a head of {REQUEST_HEAD_BYTES:,} bytes, "
    f"{UPLOAD_SECONDS:.0f} s for an upload, {EXCHANGE_SECONDS:.0f} s in all",
    "largest mask": f"{MASK_PIXELS:,} pixels",
    "largest annotations": f"{OBJECTS:,} objects an image, {OUTLINE_PIXELS:,} pixels of outline, "
    f"{MASK_WORK:,} pixels to draw",
    "largest tar header": f"{TAR_HEADER_BYTES:,} bytes",
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
    "most runs": f"{RUNS:,} of a sweep or a leaderboard",
    "deepest JSON": f"{JSON_DEPTH} lists and objects inside each other",
    "longest setting": f"{SETTING_LENGTH:,} characters of a recipe's",
    "longest recipe name": f"{NAME_LENGTH:,} characters",
}
"""The limits in words, for `objecthood doctor`."""
