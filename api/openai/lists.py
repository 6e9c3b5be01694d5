"""Lists as OpenAI's clients page through them: `after` is the id of the last thing seen."""

from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

Item = TypeVar("Item", bound=BaseModel)

After = Annotated[str | None, Query(description="The id of the last one that you have.")]


class ListOf(BaseModel, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = Field(False, description="Ask on with `after`, the last one's id.")


def list_of(data: list[Item], *, has_more: bool) -> ListOf[Item]:
    ids = [str(getattr(item, "id")) for item in data]  # noqa: B009  # each of them has one
    return ListOf(
        data=data,
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=has_more,
    )
