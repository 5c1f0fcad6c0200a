"""A hook of mkdocs: files of the repository that pages link to come along as pages of their own.

Pages in docs/ link to sources and notes beside them (`../objecthood/train.py`, `../results/tries.md`), which
works where the repository is browsed. In the built site there is nothing outside docs/; so each such file
becomes the page source/PATH, code highlighted, and the link leads there. A link to what does not exist stays,
and ends the strict build.
"""

from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_LINK = re.compile(r"\]\((?P<path>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
LANGUAGES = {".py": "python", ".json": "json", ".toml": "toml", "": "make"}


def on_config(config: MkDocsConfig) -> None:
    """The site links to the repository, once it has a public address."""
    release = Path(config.docs_dir).parent / "runs" / "release" / "address.py"
    config.repo_url = runpy.run_path(str(release))["ADDRESS"] or None


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every file of the repository that a page links to, and that those link to."""
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        uri, text = waiting.pop()
        for match in _LINK.finditer(text):
            source = outside(uri, match["path"], config)
            if source and not files.get_file_from_path(page_of(source)):
                content = as_page(source, config)
                files.append(File.generated(config, page_of(source), content=content))
                waiting.append((page_of(source), content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links out of docs/ lead to the pages made of those files."""

    def inside(match: re.Match[str]) -> str:
        source = outside(page.file.src_uri, match["path"], config)
        if not source:
            return match[0]
        path = os.path.relpath(page_of(source), Path(page.file.src_uri).parent)
        return f"]({path}{match['anchor'] or ''})"

    return _LINK.sub(inside, markdown)


def outside(uri: str, path: str, config: MkDocsConfig) -> str:
    """The file a link of page `uri` means, relative to the repository; "" if in docs/ or not there."""
    docs = Path(config.docs_dir).resolve()
    if uri.startswith("source/"):  # a page made here: its links are relative to the file it shows
        target = docs.parent / Path(uri.removeprefix("source/")).parent / path
    else:
        target = docs / Path(uri).parent / path
    target = Path(os.path.normpath(target))
    if not target.is_file() or docs in target.parents or docs.parent not in target.parents:
        return ""
    return target.relative_to(docs.parent).as_posix()


def page_of(source: str) -> str:
    """Where a file of the repository lies in the site."""
    return f"source/{source}" if source.endswith(".md") else f"source/{source}.md"


def as_page(source: str, config: MkDocsConfig) -> str:
    """Markdown as it is, code as a block that the search leaves out."""
    path = Path(config.docs_dir).parent / source
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":  # of the repository's root, its links to docs/ lead back to the site
        return text.replace("](docs/", "](../")
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {source}"
    return f"{head}\n\n`````{LANGUAGES.get(path.suffix, 'text')}\n{text}\n`````\n"
