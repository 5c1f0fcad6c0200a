"""`objecthood predict` of videos: what the command does once it knows that its paths are videos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objecthood.predict_command import PredictOptions
    from objecthood.recipes.base import Model


def predict_videos(model: Model, options: PredictOptions) -> int:
    """Look at every video of `options`, each into the folder --out; the exit code."""
    from objecthood.options import UsageError
    from objecthood.predict_video import predict_video, sees_video
    from objecthood.progress import RunProgress

    if options.starts is not None:
        raise UsageError("--starts begins pictures anew, not videos, where slots go on; leave it away")
    if options.one_ground:
        raise UsageError("--one-ground unites slots of pictures, not of videos; leave it away")
    if not sees_video(model):
        print("weights of a picture model: every frame is taken for itself, slots may change objects")
    for path in options.pictures:
        with RunProgress(Path(path).name, 0) as progress:

            def report(done: int, total: int, progress: RunProgress = progress) -> None:
                progress.num_steps = total
                progress.bar.update(progress.task, total=total or None)
                progress.update(done, "frames")

            result = predict_video(
                model,
                path,
                options.out,
                iterations=options.iterations,
                num_slots=options.slots,
                report=report,
            )
        print(f"{path}: {result.frames} frames")
        for what, file in result.files.items():
            print(f"{what:<9}{file}")
    return 0
