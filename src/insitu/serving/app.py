"""The HTTP API: `POST /v1/place`."""

import base64
import binascii
import io
from typing import Annotated

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, Field

from insitu.errors import UserError
from insitu.serving.engine import Engine

MAX_BODY = 16 * 2**20
MAX_PIXELS = 4096 * 4096
Share = Annotated[float, Field(ge=0, le=1)]


class PlaceRequest(BaseModel):
    """What is to be placed where. `image` is a PNG or JPEG in base64."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"subject": "mug-1", "image": "iVBORw0KGgo...", "box": [0.3, 0.4, 0.7, 0.9]}
            ]
        },
    )

    subject: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="The subject's name.")
    image: str = Field(description="The photo, PNG or JPEG in base64.")
    box: tuple[Share, Share, Share, Share] = Field(
        description="Left, top, right, bottom, in shares of width and height."
    )
    prompt: str | None = Field(
        default=None, max_length=500, description="What is to be seen; {subject} is the subject."
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="Decides the picture.")
    version: str = Field(
        default="champion",
        pattern=r"^(champion|candidate|[0-9]{1,9})$",
        description="An alias or a version's number.",
    )


class PlaceAnswer(BaseModel):
    """The picture, a PNG in base64 of the photo's size, and the adapter that painted it."""

    image: str
    adapter: str = Field(description="The adapter's registered name.")
    version: str
    digest: str


def make_app(engine: Engine) -> FastAPI:
    """The application around a loaded engine."""
    app = FastAPI(title="insitu", summary="Puts chosen subjects at chosen places in an image.")

    @app.middleware("http")
    async def bound_body(request: Request, call_next):  # type: ignore[no-untyped-def]
        declared = request.headers.get("content-length")
        if request.method == "POST" and (declared is None or int(declared) > MAX_BODY):
            return _refusal(
                413,
                UserError(
                    f"A body of {declared or 'unknown'} bytes was sent.",
                    f"At most {MAX_BODY} bytes are taken, and their number has to be declared.",
                    "Send a smaller photo.",
                ),
            )
        return await call_next(request)

    @app.exception_handler(UserError)
    async def refuse(_: Request, error: UserError) -> Response:
        return _refusal(422, error)

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    # A plain function: FastAPI runs it in a thread, so that health checks are answered meanwhile.
    @app.post("/v1/place")
    def place(request: PlaceRequest) -> PlaceAnswer:
        """Put a subject into a photo."""
        placed = engine.place(
            subject=request.subject, image=decode(request.image), box_xyxy01=request.box,
            prompt=request.prompt, seed=request.seed, version=request.version,
        )  # fmt: skip
        return PlaceAnswer(
            image=encode(placed.image),
            adapter=placed.entry.name,
            version=placed.entry.version,
            digest=placed.entry.digest,
        )

    return app


def _refusal(status: int, error: UserError) -> JSONResponse:
    parts = {"given": error.given, "why": error.why, "to do": error.todo}
    return JSONResponse({"error": parts}, status_code=status)


def encode(image_HWC: NDArray[np.uint8]) -> str:
    """Pixels as a PNG in base64."""
    buffer = io.BytesIO()
    Pillow.fromarray(image_HWC).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decode(text: str) -> NDArray[np.uint8]:
    """A PNG or JPEG in base64 as RGB pixels [H, W, 3].

    Raises:
        UserError: it is not base64; also as `read_photo`.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise UserError(
            f"A photo of {len(text)} characters was sent.",
            "It is not base64.",
            "Encode the file's bytes in base64.",
        ) from None
    return read_photo(data)


def read_photo(data: bytes) -> NDArray[np.uint8]:
    """A PNG or JPEG as RGB pixels [H, W, 3].

    Raises:
        UserError: it is neither, or has too many pixels.
    """
    try:
        with Pillow.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UserError(
                    f"A photo of {picture.width} x {picture.height} pixels was given.",
                    f"At most {MAX_PIXELS} pixels are taken.",
                    "Give a smaller photo.",
                )
            return np.array(picture.convert("RGB"), np.uint8)
    except UserError:
        raise
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError):
        raise UserError(
            f"A photo of {len(data)} bytes was given.",
            "It is no whole PNG or JPEG.",
            "Save it again as PNG or JPEG.",
        ) from None
