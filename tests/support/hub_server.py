"""A stand-in for the Hugging Face Hub: the few endpoints that huggingface-hub needs to make a repository,
commit to it and fetch from it; everything stays in memory, everything asked for is kept in `asked`.

It can misbehave: `trouble` names what befalls the weights of a repository.
"""

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml


class Hub(ThreadingHTTPServer):
    """Serves on a free port of this machine; `repositories` holds name -> path -> bytes."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.trouble: dict[str, str] = {}
        self.ranges: list[tuple[str, str]] = []
        self.over = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET(with_body=False)

    def do_GET(self, with_body=True):
        self.note()
        path = self.path.partition("?")[0].strip("/")
        owner, name, *rest = path.split("/")
        files = self.server.repositories.get(f"{owner}/{name}")
        if files is None or rest[0] != "resolve" or "/".join(rest[2:]) not in files:
            missing = "RepoNotFound" if files is None else "EntryNotFound"
            return self.answer(404, {"error": "not here"}, {"X-Error-Code": missing})
        content = files["/".join(rest[2:])]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": commit(files)}
        trouble = self.server.trouble.get(f"{owner}/{name}") if path.endswith(".safetensors") else None
        if trouble and (with_body or trouble == "elsewhere"):
            return self.misbehave(trouble, f"{owner}/{name}", content, headers)
        return self.answer(200, content, headers, with_body)

    def misbehave(self, trouble: str, repository: str, content: bytes, headers: dict[str, str]) -> None:
        """What a broken or hostile server may do when it is asked for a file."""
        first, asked = 0, self.headers.get("Range")
        if asked:
            self.server.ranges.append((repository, asked))
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers |= {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        rest = content[first:]
        if trouble == "error":
            self.answer(500, {"error": "broken"})
        elif trouble == "elsewhere":
            self.answer(302, b"", headers | {"Location": "file:///etc/passwd"})
        elif trouble == "short":
            self.answer(200, content[:-100], headers)
        elif trouble == "long":
            self.answer(200, content + bytes(100), headers)
        elif trouble == "other":
            self.answer(200, content[:-100] + bytes(100), headers)
        elif trouble == "broken off" and not asked:
            self.answer(200, rest[: len(rest) // 2], headers | {"Content-Length": str(len(rest))})
            self.close_connection = True
        elif trouble == "silent":
            self.server.over.wait(30)
        else:
            self.answer(206 if asked else 200, rest, headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.note()
        path = self.path.partition("?")[0].strip("/")
        if self.headers.get("Authorization") != "Bearer hf_test":
            return self.answer(401, {"error": "who are you?"})
        if path == "api/validate-yaml":  # as the Hub does: what it cannot read it refuses
            head = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            wrong = [key for key in ("license", "library_name", "model-index") if not head.get(key)]
            errors = [{"message": f"{key} is missing"} for key in wrong]
            return self.answer(400 if errors else 200, {"errors": errors, "warnings": []})
        if path == "api/repos/create":
            wanted = json.loads(body)
            name = (
                f"{wanted['organization']}/{wanted['name']}" if "organization" in wanted else wanted["name"]
            )
            self.server.repositories.setdefault(name, {})
            return self.answer(200, {"url": f"{self.server.address}/{name}"})
        if path.startswith("api/models/") and path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self.answer(200, {"files": [{"path": file["path"], **regular} for file in files]})
        if path.startswith("api/models/") and path.endswith("/commit/main"):
            name = path.removeprefix("api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.repositories[name][line["value"]["path"]] = content
            number = commit(self.server.repositories[name])
            url = f"{self.server.address}/{name}/commit/{number}"
            return self.answer(200, {"commitUrl": url, "commitOid": number, "success": True})
        return self.answer(404, {"error": f"no {path}"})

    def note(self):
        self.server.asked.append((self.command, self.path, self.headers.get("Authorization", "")))

    def answer(self, code, content, headers=None, with_body=True):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(content)


def commit(files):
    """A number that another content changes."""
    return hashlib.sha1(b"".join(name.encode() + files[name] for name in sorted(files))).hexdigest()


@contextlib.contextmanager
def serving():
    """A running `Hub`."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
