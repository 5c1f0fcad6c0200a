"""`objecthood demo`: the page that shows slots at work, served here or built as a static folder."""

from __future__ import annotations

import dataclasses
import inspect

from objecthood.cli.export import NEEDED, require
from objecthood.cli.options import UsageError, parse
from objecthood.runtime.terminal import echo


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """What is shown, and where."""

    weights: tuple[str, ...] = ()
    """Names (objecthood list weights), weights files, or run folders of object discovery; all that come with
    the package unless named."""
    host: str = "127.0.0.1"
    """Address to listen on; this machine's own unless named. Another one (0.0.0.0, ::, a name) opens the
    demo to a network."""
    names: tuple[str, ...] = ()
    """Further names by which browsers may ask for the page, such as a proxy's. Others are not answered."""
    port: int = 8765
    """Port to listen on; 0: any free one."""
    browser: bool = True
    """Open the page in a browser."""
    site: str = ""
    """New folder to build the page in instead of serving it: it then runs in the visitor's browser."""
    runtime: str = "web/node_modules/onnxruntime-web/dist"
    """With --site, where onnxruntime-web lies (npm ci --prefix web)."""


def demo(arguments: list[str]) -> int:
    """Show slots at work, on a page: [WEIGHTS...].

    Serves the page on this machine, with PyTorch behind it; Ctrl-C ends it. Images that are dropped on it
    are kept in memory alone. With --site FOLDER the page is built as plain files for any web host: the
    exported model then runs in the visitor's browser.
    """
    options = parse(DemoOptions, arguments, "demo", inspect.getdoc(demo) or "")
    if not 0 <= options.port < 65536:
        raise UsageError(f"--port (={options.port}) must be from 0 to 65535")
    require(NEEDED if options.site else ("starlette", "uvicorn"), "export" if options.site else "demo")

    import torch

    from objecthood.demo.shown import load_shown

    shown = load_shown(list(options.weights))
    if options.site:
        from objecthood.demo.site import build_site

        written = build_site(shown, options.site, options.runtime)
        echo(f"{written}: open it with python -m http.server --directory {written}")
        return 0
    torch.set_num_threads(1)  # images are small: more threads cost more than they bring

    from objecthood.demo.server import serve

    def started(address: str) -> None:
        echo(f"the demo is at {address} (Ctrl-C ends it)", flush=True)
        if options.browser:
            import webbrowser

            webbrowser.open(address)

    serve(shown, options.host, options.port, started, options.names)
    return 0
