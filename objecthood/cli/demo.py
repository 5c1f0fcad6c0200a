"""`objecthood demo`: an interactive page, served locally or built as a static site."""

from __future__ import annotations

import dataclasses

from objecthood.cli.export import NEEDED, require
from objecthood.cli.options import UsageError, parse
from objecthood.runtime.terminal import echo


@dataclasses.dataclass(frozen=True)
class DemoOptions:
    """What to show, and where."""

    weights: tuple[str, ...] = ()
    """Names (objecthood list weights), weights files or run folders of discovery models; all bundled ones by
    default."""
    host: str = dataclasses.field(default="127.0.0.1", metadata={"metavar": "ADDRESS"})
    """Address to listen on. The default is reachable from this machine only; 0.0.0.0 or :: opens the demo to
    the network."""
    names: tuple[str, ...] = dataclasses.field(default=(), metadata={"metavar": "NAME", "is_option": True})
    """Additional host name to accept, such as that of a proxy; requests for other hosts are refused."""
    port: int = dataclasses.field(default=8765, metadata={"metavar": "PORT"})
    """Port to listen on; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""
    site: str = dataclasses.field(default="", metadata={"metavar": "FOLDER"})
    """Build a static site in this new folder instead of serving; the model then runs in the browser."""
    runtime: str = dataclasses.field(
        default="web/node_modules/onnxruntime-web/dist", metadata={"metavar": "FOLDER"}
    )
    """With --site, the folder of onnxruntime-web (npm ci --prefix web)."""


def demo(arguments: list[str]) -> int:
    """Open an interactive demo in the browser: [WEIGHTS ...].

    Serves a page from this machine and runs the model with PyTorch; Ctrl-C stops it. Uploaded images stay in
    memory. --site FOLDER builds a static site for any web host, which runs the exported model in the browser.
    """
    options = parse(DemoOptions, arguments, "demo", demo)
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
    torch.set_num_threads(1)  # more threads do not pay off on small images

    from objecthood.demo.server import serve

    def started(address: str) -> None:
        echo(f"the demo is at {address} (press Ctrl-C to stop)", flush=True)
        if options.browser:
            import webbrowser

            webbrowser.open(address)

    serve(shown, options.host, options.port, started, options.names)
    return 0
