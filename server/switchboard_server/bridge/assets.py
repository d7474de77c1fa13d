"""The files that browsers get from the bridge: the console, and the SDK that it is made with."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILES: Mapping[str, str] = {
    "/": "console/index.html",
    "/console/charts.js": "console/charts.js",
    "/console/console.css": "console/console.css",
    "/console/console.js": "console/console.js",
    "/console/dom.js": "console/dom.js",
    "/console/hints.js": "console/hints.js",
    "/console/icon.svg": "console/icon.svg",
    "/console/keys.js": "console/keys.js",
    "/console/panels.js": "console/panels.js",
    "/console/sending.js": "console/sending.js",
    "/console/tail.js": "console/tail.js",
    "/switchboard.js": "switchboard.js",
}
"""The file in `clients/web` for each path. A path is looked up as it is and never joined to a
folder, so nothing else can be had."""

SHARED = frozenset({"/switchboard.js"})
"""Paths of what pages from elsewhere may read, if they may connect. The console is not for them."""

HEADERS = (
    # Scripts and styles come from here only, and the page talks to this hub only.
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("Referrer-Policy", "no-referrer"),
)
"""Headers of every file."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, as it is served."""

    content_type: str
    """Its media type."""

    body: bytes
    """Its content."""

    etag: str
    """Names its content, with quotes, for `If-None-Match`."""

    shared: bool
    """Whether pages from elsewhere may read it."""


def load_assets() -> dict[str, Asset]:
    """Reads all files.

    Returns:
        The files by the path of their URL.

    Raises:
        OSError: A file is missing: the installation is broken.
    """
    return {path: _load(_folder() / name, path in SHARED) for path, name in FILES.items()}


def _folder() -> Path:
    """Finds the files: packed beside this module, or in a checkout where they are written."""
    packed = Path(__file__).parent / "web"
    return packed if packed.is_dir() else Path(__file__).parents[3] / "clients" / "web"


def _load(path: Path, shared: bool) -> Asset:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return Asset(_TYPES[path.suffix], body, etag, shared)
