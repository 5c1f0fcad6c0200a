"""Module paths of version 0.1, which still import, with a DeprecationWarning: until version 0.3."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings

MOVED = {
    "animate": "visualize.animation",
    "benchmark_command": "cli.benchmark",
    "charts": "visualize.charts",
    "commands": "cli.commands",
    "completion_command": "cli.completion",
    "costs": "cli.costs",
    "data.archives": "data.io.archives",
    "data.cache": "data.io.cache",
    "data.camouflage": "data.generated.camouflage",
    "data.clevr": "data.published.clevr",
    "data.clevr_light": "data.clevr_render.light",
    "data.clevr_like": "data.clevr_render.clevr_like",
    "data.clevr_meshes": "data.clevr_render.meshes",
    "data.clevr_scenes": "data.clevr_render.arrangement",
    "data.clevr_slow_light": "data.clevr_render.slow_light",
    "data.clevr_textures": "data.clevr_render.textures",
    "data.clevr_view": "data.clevr_render.view",
    "data.clevrtex": "data.published.clevrtex",
    "data.coco": "data.published.coco",
    "data.davis": "data.published.davis",
    "data.frame_folder": "data.io.frame_folder",
    "data.frames": "data.io.frames",
    "data.images": "data.io.images",
    "data.motion_fields": "motion.fields",
    "data.motion_paths": "motion.paths",
    "data.movi": "data.published.movi",
    "data.moving_sprites": "data.generated.moving_sprites",
    "data.multi_object": "data.published.multi_object",
    "data.multi_object_packed": "data.published.multi_object_packed",
    "data.optical_flow": "motion.optical_flow",
    "data.pictures": "data.io.user_images",
    "data.protobuf": "data.published.protobuf",
    "data.render": "data.clevr_render.render",
    "data.silhouettes": "data.generated.silhouettes",
    "data.sprites": "data.generated.sprites",
    "data.tetrominoes": "data.generated.tetrominoes",
    "data.tfrecord": "data.published.tfrecord",
    "data.trajectories": "data.generated.trajectories",
    "data.video_file": "data.io.video_file",
    "data_commands": "cli.data",
    "demo_command": "cli.demo",
    "diagnose_command": "cli.diagnose",
    "diagnosis": "analysis.diagnosis",
    "diagnostics": "analysis.diagnostics",
    "distributed": "runtime.distributed",
    "doctor": "cli.doctor",
    "environment": "runtime.environment",
    "estimator": "inference.estimator",
    "examples": "export.examples",
    "export_command": "cli.export",
    "familiarity": "analysis.out_of_distribution",
    "files": "runtime.files",
    "guard": "training.nonfinite",
    "huggingface": "hub.huggingface",
    "limits": "runtime.limits",
    "list_commands": "cli.listing",
    "lookup": "cli.lookup",
    "model_card": "hub.model_card",
    "motion_masks": "motion.masks",
    "nn.grounds": "nn.background_merge",
    "nn.slot_motion_by_matching": "nn.block_matching",
    "nn.own_frame": "nn.slot_frames",
    "nn.priors": "nn.attention_bias",
    "nn.shapes": "nn.mask_moments",
    "nn.views": "nn.color_transforms",
    "onnx_graph": "export.graph",
    "optimizers": "nn.muon",
    "options": "cli.options",
    "parts": "export.stages",
    "predict": "inference.predict",
    "predict_command": "cli.predict",
    "predict_video": "inference.predict_video",
    "predicted_masks": "inference.masks",
    "predicted_objects": "inference.objects",
    "probes": "analysis.probes",
    "progress": "runtime.progress",
    "reference": "checkpoint.reference",
    "report": "training.report",
    "result": "inference.result",
    "result_folder": "inference.result_folder",
    "rle": "data.io.rle",
    "run_log": "training.run_log",
    "score_names": "recipes.score_names",
    "stopping": "runtime.signals",
    "sweep_command": "cli.sweep",
    "video_figures": "visualize.video",
    "weight_file": "checkpoint.header",
}
"""Old module to new one, both without `objecthood.`."""


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a module under its old path: the module object of the new one."""

    def find_spec(
        self, fullname: str, path: object = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "objecthood" or name not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        new = f"objecthood.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """The module ran when it was imported under its new path; it keeps that path's spec."""
        if module.__spec__:
            module.__spec__ = module.__spec__.loader_state


def install() -> None:
    """Let old module paths be found."""
    sys.meta_path.insert(0, _Finder())
