"""Speed and memory of `objecthood predict` on a real video: results/video-speed.json.

    OMP_NUM_THREADS=2 python runs/experiments/video_speed.py DAVIS/JPEGImages/480p/soapbox

Runs the command on a folder of frames with the model `video`, as a process of its own, and adds a row: what
it took in all, from its start to the last result file. Without OMP_NUM_THREADS it takes the idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from objecthood.runtime.environment import describe

TARGET = Path(__file__).resolve().parents[2] / "results" / "video-speed.json"
PROTOCOL = (
    "objecthood predict FRAMES --weights video, one process, from its start to its end with all result "
    "files; cpu_seconds: user and system time of all its threads; load: mean number of running programs in "
    "the minute before; a row a run"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("frames", type=Path, help="a folder of frames")
    folder = parser.parse_args().frames
    files = sorted(folder.glob("*.jpg"))
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as out:
        words = ["predict", str(folder), "--weights", "video", "--out", out]
        subprocess.run([sys.executable, "-m", "objecthood", *words], check=True)
    wall, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    with Image.open(files[0]) as image:
        size = image.size
    row = {
        "sequence": folder.name,
        "frames": len(files),
        "size": list(size),
        "threads": os.environ.get("OMP_NUM_THREADS", "idle cores"),
        "wall_seconds": round(wall, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_megabytes": used.ru_maxrss // 1024,
        "load": round(load, 2),
    }
    rows = json.loads(TARGET.read_text())["rows"] if TARGET.exists() else []
    result = {"name": "video-speed", "protocol": PROTOCOL, "rows": [*rows, row], "machine": describe()}
    TARGET.write_text(json.dumps(result, indent=1) + "\n")
    print(row)


if __name__ == "__main__":
    main()
