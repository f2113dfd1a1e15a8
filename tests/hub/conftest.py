"""A Hub on this machine: the endpoints that `huggingface_hub` uses to push and to load models, over HTTP."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import prism_hf

TOKEN = "hf_owner"


@dataclass
class Repository:
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)  # name -> commit
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> content

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        tree = self.commits.get(self.branches.get(branch), {}) | files
        oid = hashlib.sha1(repr((len(self.commits), sorted(tree))).encode()).hexdigest()
        self.commits[oid], self.branches[branch] = tree, oid
        return oid

    def commit_of(self, revision: str) -> str | None:
        return self.branches.get(revision, revision if revision in self.commits else None)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]


class Hub(ThreadingHTTPServer):
    """Repositories in memory. Writing, and reading what is private, takes the owner's token, as on the real Hub."""

    daemon_threads = True
    token = TOKEN

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}  # sha256 -> content, as LFS stores it

    def create(self, repo_id: str, private: bool = False) -> Repository:
        return self.repositories.setdefault(repo_id, Repository(private))

    def text(self, repo_id: str, path: str) -> str:
        return self.repositories[repo_id].files[path].decode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status: int, body=None, **headers) -> None:
        content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def answer(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self.body()
        for method, pattern, function in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                groups = found.groupdict()
                if "repo" in groups:
                    repository = self.server.repositories.get(groups["repo"])
                    hidden = repository is not None and repository.private and not self.is_owner
                    if repository is None or hidden:
                        return self.refuse(404 if self.is_owner else 401, "RepoNotFound")
                if self.command in ("POST", "PUT") and not self.is_owner and "signed" not in groups:
                    return self.refuse(401, "Unauthorized")
                return function(self, body, **groups)
        return self.refuse(404, "NoSuchEndpoint")

    do_GET = do_HEAD = do_POST = do_PUT = answer

    @property
    def is_owner(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    # Writing

    def create(self, body) -> None:
        request = json.loads(body)
        repo = f"{request.get('organization') or 'user'}/{request['name']}"
        exists = repo in self.server.repositories
        if not exists:
            created = self.server.create(repo, private=request.get("visibility") == "private")
            created.commit({".gitattributes": b"*.safetensors filter=lfs"})
        self.reply(409 if exists else 200, {"url": f"{self.server.url}/{repo}", "name": repo, "id": repo})

    def validate_card(self, body) -> None:
        found = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
        metadata = yaml.safe_load(found[1]) if found else {}
        bases = metadata.get("base_model") or []
        bases = [bases] if isinstance(bases, str) else bases
        bad = [base for base in bases if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base)]
        message = f'"base_model" with value {bad} is not valid. Use a model id from https://hf.co/models.'
        self.reply(400 if bad else 200, {"errors": [{"message": message}] if bad else [], "warnings": []})

    def preupload(self, body, repo, revision) -> None:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".bin")) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(body)["files"]
        ]
        self.reply(200, {"files": files})

    def lfs_batch(self, body, repo) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self.reply(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, body, signed) -> None:
        if hashlib.sha256(body).hexdigest() != signed:
            return self.refuse(400, "WrongHash")
        self.server.blobs[signed] = body
        return self.reply(200)

    def commit(self, body, repo, revision) -> None:
        operations = [json.loads(line) for line in body.splitlines()]
        files = {}
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
        repository = self.server.repositories[repo]
        if repository.commit_of(revision) is None:
            return self.refuse(404, "RevisionNotFound")
        oid = repository.commit(files, revision)
        return self.reply(200, {"commitUrl": f"{self.server.url}/{repo}/commit/{oid}", "commitOid": oid})

    def branch(self, body, repo, name) -> None:
        repository = self.server.repositories[repo]
        exists = name in repository.branches
        repository.branches.setdefault(name, repository.branches["main"])
        self.reply(409 if exists else 200)

    # Reading

    def whoami(self, body) -> None:
        self.reply(200, {"name": "user", "type": "user", "orgs": []})

    def info(self, body, repo, revision=None) -> None:
        repository = self.server.repositories[repo]
        oid = repository.commit_of(revision or "main")
        if oid is None:
            return self.refuse(404, "RevisionNotFound")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[oid])]
        return self.reply(
            200, {"id": repo, "sha": oid, "private": repository.private, "tags": [], "siblings": siblings}
        )

    def tree(self, body, repo, revision) -> None:
        repository = self.server.repositories[repo]
        files = repository.commits[repository.commit_of(revision)]
        rows = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in sorted(files.items())
        ]
        self.reply(200, rows)

    def resolve(self, body, repo, revision, path) -> None:
        repository = self.server.repositories[repo]
        oid = repository.commit_of(revision)
        if oid is None:
            return self.refuse(404, "RevisionNotFound")
        if path not in repository.commits[oid]:
            return self.reply(404, b"", X_Error_Code="EntryNotFound", X_Repo_Commit=oid)
        content = repository.commits[oid][path]
        return self.reply(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', X_Repo_Commit=oid)


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = (
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_card),
    ("POST", rf"/api/models/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<signed>\w+)", Handler.lfs_put),
    ("POST", rf"/api/models/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", rf"/api/models/{REPO}/branch/(?P<name>.+)", Handler.branch),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("GET", rf"/api/models/{REPO}", Handler.info),
    ("GET", rf"/api/models/{REPO}/revision/(?P<revision>.+)", Handler.info),
    ("GET", rf"/api/models/{REPO}/tree/(?P<revision>[^/]+).*", Handler.tree),
    (("GET", "HEAD"), rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
)


@pytest.fixture(scope="module")
def hub():
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def run(hub, tmp_path_factory):
    """Runs Python code in a fresh process whose Hub is ours and whose cache is empty; gives what it printed."""

    def run_code(code: str, *arguments: str, token: str | None = TOKEN, fails: bool = False) -> str:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path_factory.mktemp("home")),
            "HF_HUB_DISABLE_XET": "1",  # its protocol needs a server of its own; LFS remains
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": str(Path(prism_hf.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HUGGING_FACE_HUB_TOKEN"):
            environment.pop(name, None)
        if token is not None:
            environment["HF_TOKEN"] = token
        result = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path_factory.mktemp("cwd"),
        )
        assert (result.returncode != 0) == fails, result.stdout + result.stderr
        return result.stderr if fails else result.stdout

    return run_code
