"""Settings of vision-language models: one behind an address, or one in this process.

Their names are the keywords of `insitu.perception.language`'s classes.
"""

from typing import Annotated

from pydantic import Field

from insitu.params.base import Checkpoint, Settings

Price = Annotated[float, Field(ge=0, le=10_000, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]


class Endpoint(Settings):
    """A model on a server that speaks OpenAI's chat completions."""

    # No user, password or query: an address is written to logs and errors, a key never.
    base_url: Annotated[str, Field(pattern=r"^https?://[^/@?#\s]+(/[^@?#\s]*)?$")] = Field(
        description="Address up to and with its version, http(s)://host:port/v1."
    )
    model: str = Field(min_length=1, description="The model's name on that server.")
    revision: str = Field(
        description="Which weights or dated version that name stands for; may be empty. Change it"
        " when they change: kept answers are then asked again."
    )
    key_variable: Annotated[str, Field(pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$")] = Field(
        description="Name of the environment variable that holds the key; empty for no key."
    )
    concurrency: Annotated[int, Field(ge=1, le=256)] = Field(
        description="Requests in flight at most, 1 to 256."
    )
    requests_per_minute: Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)] = Field(
        description="Requests started in a minute, evenly spaced, above 0."
    )
    timeout_s: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        description="Longest silence of the server in seconds, above 0 to 3600."
    )
    tries: Annotated[int, Field(ge=1, le=20)] = Field(
        description="How often one question is asked at most, 1 to 20."
    )
    max_tokens: Tokens = Field(description="Tokens of an answer at most, 1 to 1000000.")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        description="Temperature of sampling, 0 to 2; null for servers that refuse to be told."
    )
    price_in: Price = Field(description="Price of a million tokens read, 0 to 10000.")
    price_out: Price = Field(description="Price of a million tokens written, 0 to 10000.")
    max_cost: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        description="Cost at which asking stops, in the prices' currency; null for no limit."
    )
    cache: str = Field(min_length=1, description="Folder of kept answers.")


class LocalLanguage(Checkpoint):
    """A model in this process: an image-text-to-text checkpoint of transformers."""

    max_new_tokens: Tokens = Field(description="Tokens of an answer at most, 1 to 1000000.")
    batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="Questions answered at once, 1 to 1024."
    )
