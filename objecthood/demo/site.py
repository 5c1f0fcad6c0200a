"""Build the demo as a static site; onnxruntime-web runs the exported model in the browser.

The site works on any static host and in any folder, and makes no requests to other hosts.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from objecthood.demo.shown import (
    ABOUT_PHOTOGRAPHS,
    LIGHT_PHOTOGRAPHS,
    Shown,
    add_shown,
    config,
    example_files,
    load_shown,
    page_files,
)
from objecthood.export.export import export_parts
from objecthood.runtime.files import staged

RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of onnxruntime-web's `dist` that the page needs."""
_ENGINE = "browser"
_UNUSED = "engine-server.js"
_PRELOADS = f"""\
<link rel="modulepreload" href="engine-browser.js">
<link rel="modulepreload" href="runtime/{RUNTIME[0]}">
<link rel="preload" as="fetch" crossorigin href="config.json">
<link rel="preload" as="fetch" crossorigin href="runtime/{RUNTIME[1]}">
"""
"""Part of the page's head: files that every visit needs are fetched at once, not one after another."""


def build_site(
    shown: list[Shown], folder: str | Path, runtime: str | Path, say: Callable[[str], None] = print
) -> Path:
    """Write the page, the export stages of every model and the runtime into a new folder, atomically.

    Args:
        runtime: the folder `dist` of the npm package onnxruntime-web.

    Raises ValueError if the folder exists, the runtime is missing, two models have one name, or an export
    differs from PyTorch.
    """
    folder, runtime = Path(folder), Path(runtime)
    if os.path.lexists(folder):
        raise ValueError(f"{folder} exists and is not replaced; choose a new folder")
    for name in RUNTIME:
        if not (runtime / name).is_file():
            raise ValueError(
                f"{runtime} has no {name}; install onnxruntime-web with npm ci --prefix web, or give its "
                "folder dist as --runtime"
            )
    shown = in_browser(shown)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with staged(folder) as place:
        for part in ("runtime", "models", "examples"):
            (place / part).mkdir(parents=True)
        for name, content in page_files().items():
            if name != _UNUSED:
                (place / name).write_bytes(content)
        page = place / "index.html"
        page.write_bytes(page.read_bytes().replace(b"</head>", f"{_PRELOADS}</head>".encode()))
        (place / "config.json").write_text(json.dumps(config(_ENGINE, shown), indent=1) + "\n")
        for name in RUNTIME:
            shutil.copyfile(runtime / name, place / "runtime" / name)
        for one in shown:
            say(f"{one.name}: exporting and comparing with PyTorch")
            export_parts(one.model, place / "models" / one.name)
            for name, content in example_files(one).items():
                (place / name).write_bytes(content)
    return folder


def in_browser(shown: list[Shown]) -> list[Shown]:
    """The models with the bundled `LIGHT_PHOTOGRAPHS`, once, in place of the bundled models of photographs.

    Raises ValueError if a model of one's own has its name.
    """
    (light,) = load_shown([LIGHT_PHOTOGRAPHS])
    bundled = ABOUT_PHOTOGRAPHS.values()
    found: list[Shown] = []
    for one in dict.fromkeys(light if one.about in bundled else one for one in shown):
        add_shown(found, one)
    return found
