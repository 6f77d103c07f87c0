"""Settings of the HTTP API and the studio."""

from typing import Annotated, Literal

from pydantic import Field

from insitu.params.base import Settings
from insitu.params.language import Endpoint

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
Name = Literal["anyphoto", "dreammix", "eligen", "inpaint_anywhere", "lar_gen", "uno"]


class Serving(Settings):
    """How requests are answered, and what bounds them."""

    methods: Annotated[tuple[Name, ...], Field(min_length=1, strict=False)] = Field(
        description="Whose adapters are served; their bases are loaded."
    )
    folder: str = Field(
        min_length=1, description="Where packages and names are kept, for a start without MLflow."
    )
    follow_s: Seconds = Field(
        description="Seconds between two looks at the aliases of what is served, above 0."
    )
    batch: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Requests that are painted at once at most, 1 to 64."
    )
    padded: bool = Field(
        description="Paint as many at all times, by repeating one: what else is asked for then"
        " does not change a picture by a bit; slower where little is asked."
    )
    queue: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="Requests that wait at most; more are told to come again, 1 to 100000."
    )
    queue_mib: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="MiB that pictures of waiting requests take at most."
    )
    adapters_mib: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="MiB of adapters' weights held in memory; those used longest ago go first."
    )
    body_mib: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="MiB of a request at most, 1 to 1024."
    )
    pixels: Annotated[int, Field(ge=4096, le=2**28)] = Field(
        description="Pixels of a picture at most, 4096 to 2^28."
    )
    prompt: Annotated[int, Field(ge=16, le=100_000)] = Field(
        description="Characters of a prompt at most, 16 to 100000."
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        description="Sampling steps that may be asked for at most, 1 to 1000."
    )
    upload_s: Seconds = Field(description="Seconds in which a request must have arrived.")
    drain_s: Seconds = Field(
        description="Seconds for what is under way to end, when the server is told to."
    )
    jobs: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="Finished jobs that are kept, with their pictures, 1 to 100000."
    )
    keys: str | None = Field(description="File of API keys, or null: only on this machine.")
    layout: Endpoint | None = Field(description="A model that lays scenes out, or null.")
