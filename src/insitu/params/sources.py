"""Settings of where pictures come from."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from insitu.errors import UserError
from insitu.params.base import Settings

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Format = Literal["auto", "folder", "imagefolder", "webdataset", "parquet"]


class Columns(Settings):
    """What a source calls its columns or JSON keys; absent: the first usual name that it has."""

    image: Name | None = Field(
        default=None, description="The pictures of a Parquet file; usually `image`."
    )
    identity: Name | None = Field(
        default=None, description="Whose picture it is; usually `identity` or `label`."
    )
    caption: Name | None = Field(
        default=None, description="What it shows, in words; usually `caption` or `text`."
    )
    licence: Name | None = Field(
        default=None, description="Its licence; usually `licence` or `license`."
    )
    split: Name | None = Field(
        default=None, description="Train, validation or test; usually `split`."
    )


class Pictures(Settings):
    """Where pictures come from, what is set aside, and how they are split."""

    path: str = Field(
        min_length=1,
        description="A folder or file here, or a url such as s3://bucket/folder; a relative path"
        " keeps the machine's own folders out of the records.",
    )
    format: Format = Field(
        description="folder, imagefolder, webdataset, parquet, or auto (told from the files)."
    )
    columns: Columns = Field(default=Columns(), description="What the source calls its columns.")
    min_side: Annotated[int, Field(ge=1, le=4096)] = Field(
        description="Least pixels of a picture's shorter side, 1 to 4096."
    )
    near_duplicate_bits: Annotated[int, Field(ge=0, le=16)] | None = Field(
        description="How many of the 64 bits of two pictures' perceptual hashes may differ for the"
        " later one to be set aside, 0 to 16; null keeps near-duplicates."
    )
    split: Literal["identity", "given"] = Field(
        description="identity (all pictures of one identity together, by a hash of its name), or"
        " given (the source's own split)."
    )
    validation: Share = Field(
        description="Share of identities for validation, 0 to 1; not used when split is given."
    )
    test: Share = Field(
        description="Share of identities for testing, 0 to 1; not used when split is given."
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Read only the first pictures by name; absent: all."
    )
    licence: Name | None = Field(
        default=None, description="The licence of pictures whose source names none."
    )

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise UserError(
                f"validation is {self.validation} and test is {self.test}.",
                "Together they leave nothing to train on.",
                "Lower them so that their sum is under 1.",
            )
        return self
