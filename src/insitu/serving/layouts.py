"""The route that has a language model lay a described scene out."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from insitu.serving.pictures import read_photo, unpacked
from insitu.serving.refusals import Unknown
from insitu.serving.service import Service
from insitu.synthesis.layout_by_language import Scene, edit, lay_out


class LayoutRequest(BaseModel):
    """A scene in words."""

    model_config = ConfigDict(extra="forbid")

    wish: str = Field(min_length=1, max_length=2000, description="What is to be seen.")
    most: Annotated[int, Field(ge=1, le=16)] = 4
    image: str | None = Field(
        default=None, description="The photo that is to be changed, in base64; else a new picture."
    )


class Thing(BaseModel):
    """One thing and its place, in shares of width and height."""

    box: tuple[float, float, float, float]
    prompt: str


class LayoutAnswer(BaseModel):
    """What `POST /v1/place` can be asked for."""

    prompt: str
    placements: list[Thing]


def routes(service: Service) -> APIRouter:
    """Of a server."""
    router = APIRouter()

    @router.post("/v1/layouts", tags=["what there is"])
    async def layout(body: LayoutRequest) -> LayoutAnswer:
        """Entities and boxes for a scene in words, by the language model of the settings."""
        scene = await run_in_threadpool(_laid_out, service, body)
        return LayoutAnswer(
            prompt=scene.prompt,
            placements=[
                Thing(box=placement.box_xyxy01, prompt=placement.prompt or "")
                for placement in scene.placements
            ],
        )

    return router


def _laid_out(service: Service, body: LayoutRequest) -> Scene:
    if service.language is None:
        raise Unknown(
            "A scene was to be laid out.",
            "This server has no language model to do so.",
            "Fill in serving.layout in params.yaml, or draw the boxes.",
        )
    if body.image is None:
        return lay_out(service.language, body.wish, most=body.most)
    photo = read_photo(unpacked(body.image), pixels=service.limits.pixels)
    return edit(service.language, photo, body.wish, most=body.most)
