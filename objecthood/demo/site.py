"""The page as a static folder: the exported model runs in the visitor's browser, by onnxruntime-web.

Any host of plain files will do, in a folder of any name; nothing is asked of another one.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from objecthood.demo.shown import Shown, config, example_files, page_files
from objecthood.export.export import export_parts

RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web's `dist` that the page needs."""
_ENGINE = "browser"
_UNUSED = "engine-server.js"


def build_site(
    shown: list[Shown], folder: str | Path, runtime: str | Path, say: Callable[[str], None] = print
) -> Path:
    """Write the page, the parts of every model, and the runtime into a new folder; all of it or nothing.

    Args:
        runtime: the folder `dist` of the npm package onnxruntime-web.

    Raises ValueError where the folder exists, the runtime is not there, or an export is not what PyTorch
    gives.
    """
    folder, runtime = Path(folder), Path(runtime)
    if folder.exists():
        raise ValueError(f"{folder} exists; name a new one to write to, nothing is replaced")
    for name in RUNTIME:
        if not (runtime / name).is_file():
            raise ValueError(
                f"{runtime} has no {name}; install onnxruntime-web with npm ci --prefix web, or name its "
                "folder dist with --runtime"
            )
    staged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        for part in ("runtime", "models", "examples"):
            (staged / part).mkdir(parents=True)
        for name, content in page_files().items():
            if name != _UNUSED:
                (staged / name).write_bytes(content)
        (staged / "config.json").write_text(json.dumps(config(_ENGINE, shown), indent=1) + "\n")
        for name in RUNTIME:
            shutil.copyfile(runtime / name, staged / "runtime" / name)
        for one in shown:
            say(f"{one.name}: export, and comparison with PyTorch")
            export_parts(one.model, staged / "models" / one.name)
            for name, content in example_files(one).items():
                (staged / name).write_bytes(content)
        staged.rename(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return folder
