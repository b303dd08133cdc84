"""The builds of the JavaScript snippet (sdk_js) as files that browsers keep."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

STATIC: Final = Path(__file__).parent / "static"
BUILDS: Final = ("", ".lite", ".full", ".sw")
"""/t.js, /t.lite.js, ...: what is put into the path before its ending. The last is for service workers."""
MAX_AGE_S: Final = 3600
"""How long browsers use a build without asking; after a release it takes so long until all have it."""


def snippet_paths(path: str) -> dict[str, str]:
    """The setting snippet_path -> where each build is served: its file in STATIC."""
    return {build_path(path, build): f"t{build}.js" for build in BUILDS}


def build_path(path: str, build: str) -> str:
    stem = path.removesuffix(".js")
    return stem + build + path[len(stem) :]


def add_snippet(app: FastAPI, path: str) -> None:
    for served_at, name in snippet_paths(path).items():
        app.add_route(served_at, _serve(Snippet(STATIC / name)), methods=["GET", "HEAD"], include_in_schema=False)


def _serve(snippet: Snippet) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        return snippet(request)

    return serve


class Snippet:
    """A build of the snippet with a strong ETag by encoding; read and compressed once, at start."""

    def __init__(self, path: Path) -> None:
        self._plain = path.read_bytes() if path.exists() else None
        if self._plain is not None:
            self._gzip = gzip.compress(self._plain, 9, mtime=0)
            self._tag = sha256(self._plain).hexdigest()[:24]

    def __call__(self, request: Request) -> Response:
        if self._plain is None:
            body = {
                "success": False,
                "code": "not_built",
                "message": "The snippet is not built.",
                "hint": "Run `make setup`.",
            }
            return JSONResponse(body, 404)
        gzipped = "gzip" in request.headers.get("accept-encoding", "").lower()
        tag = f'"{self._tag}-gz"' if gzipped else f'"{self._tag}"'
        headers = {
            "ETag": tag,
            "Cache-Control": f"public, max-age={MAX_AGE_S}, stale-while-revalidate=86400",
            "Vary": "Accept-Encoding",
            "Access-Control-Allow-Origin": "*",
            "Cross-Origin-Resource-Policy": "cross-origin",
            "X-Content-Type-Options": "nosniff",
        }
        known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        if gzipped:
            headers["Content-Encoding"] = "gzip"
        return Response(
            self._gzip if gzipped else self._plain, media_type="text/javascript; charset=utf-8", headers=headers
        )
