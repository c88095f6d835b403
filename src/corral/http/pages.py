"""The chat page, the status page and their files: read once at start, served from memory.

Every file has a hash for its ETag and must be asked for again each time: a browser never runs a page of one
version with a script of another. The policy allows nothing but our own files, and no inline script or style.
"""

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quart import Quart, Response, request

from corral.errors import NotFound
from corral.http.marks import Access, access

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".html": "text/html"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    data: bytes
    content_type: str
    etag: str


def read_files(folder: Path) -> dict[str, StaticFile]:
    """All files below a folder by their path from it. Blocks."""
    files: dict[str, StaticFile] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            guessed = TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0]
            content_type = guessed or "application/octet-stream"
            if content_type.startswith("text/"):
                content_type += "; charset=utf-8"
            etag = hashlib.sha256(data).hexdigest()[:24]
            files[path.relative_to(folder).as_posix()] = StaticFile(data, content_type, etag)
    return files


def add_pages(app: Quart, files: Mapping[str, StaticFile]) -> None:
    """Serve the files of static/ under /static, and the two pages where people look for them."""

    @app.get("/")
    @access(Access.PUBLIC)
    async def chat_page() -> Response:
        """The chat page."""
        return _file(files, "chat/index.html")

    @app.get("/status")
    @access(Access.PUBLIC)
    async def status_page() -> Response:
        """The status page."""
        return _file(files, "status/index.html")

    @app.get("/robots.txt")
    @access(Access.PUBLIC)
    async def robots() -> Response:
        """Keeps search engines away."""
        return _file(files, "robots.txt")

    @app.get("/static/<path:name>")
    @access(Access.PUBLIC)
    async def static_file(name: str) -> Response:
        """The pages' scripts and styles."""
        return _file(files, name)


def _file(files: Mapping[str, StaticFile], name: str) -> Response:
    file = files.get(name)
    if file is None:
        raise NotFound(f"there is nothing at {request.path}")
    headers = {"Cache-Control": "no-cache"}
    if file.content_type.startswith("text/html"):
        headers["Content-Security-Policy"] = POLICY
    is_known = request.if_none_match.contains(file.etag)
    response = Response(
        b"" if is_known else file.data,
        status=304 if is_known else 200,
        content_type=file.content_type,
        headers=headers,
    )
    response.set_etag(file.etag)
    return response
