"""Draw what the bundled model `video` finds in real clips: docs/images/real-cars.webp and real-clips.webp.

    python runs/pictures/real_clips.py CLIPS

CLIPS holds car-detection.mp4, one-by-one-person-detection.mp4 and bottle-detection.mp4 of
https://github.com/intel-iot-devkit/sample-videos (Creative Commons Attribution 4.0).
"""

from __future__ import annotations

import argparse
import tempfile
from fractions import Fraction
from itertools import islice
from pathlib import Path

from PIL import Image

import objecthood as oh
from objecthood.data.io.video_file import VideoFile, VideoWriter
from objecthood.visualize.animation import save_animation

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
GAP = 4


def overlays(clip: Path, first: int, last: int, step: int, width: int) -> list[Image.Image]:
    """Frames first, first + step, ... before last of a clip as the model draws them, of that width."""
    with tempfile.TemporaryDirectory() as folder:
        video, part = VideoFile(clip), Path(folder) / "part.mp4"
        with VideoWriter(part, video.size, Fraction(25)) as writer:
            for frame in islice(video, first, last, step):
                writer.write(frame)
        drawn = VideoFile(oh.predict_video("video", part, Path(folder) / "found").files["video"])
        height = round(width * video.size[0] / video.size[1])
        return [Image.fromarray(frame).resize((width, height)) for frame in drawn]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clips", type=Path, help="folder of the three clips")
    clips = parser.parse_args().clips
    cars = overlays(clips / "car-detection.mp4", 182, 236, 1, 480)
    save_animation(cars, IMAGES / "real-cars.webp", milliseconds=80)
    person = overlays(clips / "one-by-one-person-detection.mp4", 730, 800, 1, 320)
    bottle = overlays(clips / "bottle-detection.mp4", 690, 800, 2, 320)
    rows = [[person[at] for at in (20, 27, 38, 69)], [bottle[at] for at in (0, 15, 20, 27)]]
    width, height = 4 * 320 + 3 * GAP, sum(row[0].height for row in rows) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    for number, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (column * (320 + GAP), number * (rows[0][0].height + GAP)))
    sheet.save(IMAGES / "real-clips.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
