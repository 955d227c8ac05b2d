"""A double of the Hugging Face hub's API on loopback: make a repository, upload (small files inline, weights by LFS), commit.

It answers as hub clients expect and keeps what was committed. `refuse` makes a step fail as the hub does.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

TOKEN = "hf_right"


class HubDouble:
    """Repositories and the calls that were made.

    Attributes:
        url: for HF_ENDPOINT.
        repos: id -> {"private": bool, "files": path -> bytes, "messages": of the commits}.
        refuse: step (`create`, `preupload`, `commit`) -> status to answer with.
        calls: steps in order.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, dict[str, Any]] = {}
        self.refuse: dict[str, int] = {}
        self.calls: list[str] = []
        self.blobs: dict[str, bytes] = {}

    def app(self) -> FastAPI:
        app = FastAPI()

        def step(name: str, request: Request) -> Response | None:
            self.calls.append(name)
            if request.headers.get("authorization") != f"Bearer {TOKEN}":
                return error(401, "Invalid credentials in Authorization header")
            return error(self.refuse[name], f"{name} refused") if name in self.refuse else None

        def error(status: int, text: str) -> JSONResponse:
            return JSONResponse({"error": text}, status, headers={"X-Error-Message": text})

        @app.get("/api/models/{owner}/{name}")
        def info(owner: str, name: str, request: Request) -> Any:
            if (no := step("info", request)) is not None:
                return no
            found = self.repos.get(f"{owner}/{name}")
            if found is None:
                return JSONResponse({"error": "Repository not found"}, 404, headers={"X-Error-Code": "RepoNotFound"})
            files = [{"rfilename": path} for path in found["files"]]
            return {
                "id": f"{owner}/{name}",
                "modelId": f"{owner}/{name}",
                "private": found["private"],
                "siblings": files,
                "tags": [],
            }

        @app.post("/api/repos/create")
        async def create(request: Request) -> Any:
            if (no := step("create", request)) is not None:
                return no
            body = await request.json()
            repo = f"{body['organization']}/{body['name']}"
            private = body.get("visibility") == "private" or body.get("private", False)
            self.repos[repo] = {"private": private, "files": {}, "messages": []}
            return {"url": f"{self.url}/{repo}", "name": repo, "id": "1"}

        @app.post("/api/validate-yaml")
        async def validate(request: Request) -> Any:
            return {"errors": [], "warnings": []}

        @app.get("/api/models/{owner}/{name}/tree/{revision}")
        def tree(owner: str, name: str, revision: str) -> Any:
            files = self.repos[f"{owner}/{name}"]["files"]
            return [{"type": "file", "path": p, "size": len(b), "oid": "0" * 40} for p, b in files.items()]

        @app.post("/api/models/{owner}/{name}/preupload/{revision}")
        async def preupload(owner: str, name: str, revision: str, request: Request) -> Any:
            if (no := step("preupload", request)) is not None:
                return no
            body = await request.json()
            mode = {True: "lfs", False: "regular"}
            return {
                "files": [
                    {
                        "path": f["path"],
                        "uploadMode": mode[f["path"].endswith((".safetensors", ".gguf"))],
                        "shouldIgnore": False,
                    }
                    for f in body["files"]
                ]
            }

        @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
        async def batch(owner: str, name: str, request: Request) -> Any:
            body = await request.json()
            objects = [
                {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{self.url}/blobs/{o['oid']}"}}}
                for o in body["objects"]
            ]
            return {"transfer": "basic", "objects": objects}

        @app.put("/blobs/{oid}")
        async def blob(oid: str, request: Request) -> Any:
            self.blobs[oid] = await request.body()
            return {}

        @app.post("/api/models/{owner}/{name}/commit/{revision}")
        async def commit(owner: str, name: str, revision: str, request: Request) -> Any:
            if (no := step("commit", request)) is not None:
                return no
            repo = self.repos[f"{owner}/{name}"]
            for line in (await request.body()).splitlines():
                item = json.loads(line)
                value = item["value"]
                match item["key"]:
                    case "header":
                        repo["messages"].append(value["summary"])
                    case "file":
                        repo["files"][value["path"]] = base64.b64decode(value["content"])
                    case "lfsFile":
                        repo["files"][value["path"]] = self.blobs[value["oid"]]
                    case "deletedFile":
                        del repo["files"][value["path"]]
            oid = f"{len(repo['messages']):040d}"
            url = f"{self.url}/{owner}/{name}/commit/{oid}"
            return {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""}

        return app


@contextmanager
def hub_double() -> Iterator[HubDouble]:
    double = HubDouble()
    server = uvicorn.Server(uvicorn.Config(double.app(), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    double.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield double
    finally:
        server.should_exit = True
        thread.join(10)
