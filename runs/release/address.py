"""Write a copy of the repository, ready to be built and uploaded, whose README and metadata name its address.

    python runs/release/address.py build/release && python -m build build/release

A package index shows README.md without the repository: its links and images must be absolute there. The
address is `ADDRESS`, here and nowhere else; mkdocs links the site to it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = ""
"""Where the repository is public, such as https://github.com/OWNER/NAME; unset until it is."""
BRANCH = "main"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def main(address: str = ADDRESS, words: list[str] | None = None) -> int:
    """Write the copy to the folder named; exit code 1 and one line if that is not possible."""
    words = sys.argv[1:] if words is None else words
    if not address:
        print(
            f"ADDRESS in {Path(__file__).relative_to(ROOT)} is unset: set the public address", file=sys.stderr
        )
        return 1
    if len(words) != 1 or Path(words[0]).exists():
        print(f"name one new folder to write to, not {' '.join(words) or 'none'}", file=sys.stderr)
        return 1
    write(Path(words[0]), address)
    return 0


def write(folder: Path, address: str) -> None:
    """All tracked files, README.md and pyproject.toml with the address."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(lambda name: (ROOT / name).is_file(), tracked.stdout.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name, change in (("README.md", absolute), ("pyproject.toml", with_urls)):
        (folder / name).write_text(change((ROOT / name).read_text(), address))


def absolute(readme: str, address: str) -> str:
    """Markdown whose relative links and images lead to `address`.

    >>> absolute("![a](docs/a.png) [b](docs/b.md#c) [d](https://e.org)", "https://h/o/n")
    '![a](https://h/o/n/raw/main/docs/a.png) [b](https://h/o/n/blob/main/docs/b.md#c) [d](https://e.org)'
    """

    def lead(match: re.Match[str]) -> str:
        kind = "raw" if match["image"] else "tree" if (ROOT / match["path"]).is_dir() else "blob"
        url = f"{address}/{kind}/{BRANCH}/{match['path']}{match['anchor'] or ''}"
        return f"{match['image']}[{match['text']}]({url})"

    return _LINK.sub(lead, readme)


def with_urls(pyproject: str, address: str) -> str:
    """Metadata with the URLs of the project."""
    urls = {
        "Homepage": address,
        "Documentation": f"{address}/blob/{BRANCH}/docs/index.md",
        "Issues": f"{address}/issues",
    }
    table = "".join(f'{name} = "{url}"\n' for name, url in urls.items())
    return pyproject.replace("[project.scripts]\n", f"[project.urls]\n{table}\n[project.scripts]\n")


if __name__ == "__main__":
    sys.exit(main())
