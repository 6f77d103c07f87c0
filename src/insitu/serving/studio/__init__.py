"""The studio: a page that draws what is asked of the API, with all that it needs in the package."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

PAGE = Path(__file__).parent / "page"
KINDS = {
    ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".txt": "text/plain",
    ".svg": "image/svg+xml",
}  # fmt: skip
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self';"
    " connect-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
}


def routes(service: Any) -> APIRouter:
    """The page at `/`, and what it loads below `/studio/`."""
    router = APIRouter(include_in_schema=False)
    router.get("/")(_asset(PAGE / "page.html"))
    for path in sorted(PAGE.rglob("*")):
        if path.suffix in KINDS:
            router.get(f"/studio/{path.relative_to(PAGE).as_posix()}")(_asset(path))
    return router


def _asset(path: Path) -> Any:
    content = path.read_bytes()

    def asset() -> Response:
        return Response(content, media_type=KINDS[path.suffix], headers=HEADERS)

    return asset
