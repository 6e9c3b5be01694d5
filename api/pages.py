"""How every list is asked for: page by page."""

from typing import Annotated

from fastapi import Query

Cursor = Annotated[str | None, Query(description="The page before answered it; none: the first.")]
Limit = Annotated[int, Query(ge=1, le=1000, description="Entries of a page.")]
Name = Annotated[str | None, Query(description="Only those with exactly this name.")]
Variant = Annotated[str | None, Query(description="Only this one: `8bits_r8_dora`.")]
