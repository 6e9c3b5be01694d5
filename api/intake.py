"""A request's file becomes a dataset: what POST /datasets and POST /v1/files do alike."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from api.audit import Audit
from api.idempotency import Once
from api.multipart import Form, receive
from finlora_core import quotas
from finlora_core.access.keys import Caller
from finlora_core.audit.action import Action
from finlora_core.datasets import registry
from finlora_core.datasets.files import MIB, DatasetFiles, Incoming
from finlora_core.datasets.intake import Received, take
from finlora_core.db.models import Dataset
from finlora_core.db.session import Database, now
from finlora_core.errors import InvalidRequest, UploadTooLarge
from finlora_core.runs.config import PromptFormat, explain
from finlora_core.settings import Settings

MAX_LIFETIME = 10 * 365 * 86400


class UploadFields(BaseModel):
    """What may stand beside the file."""

    model_config = ConfigDict(extra="forbid")

    prompt_format: PromptFormat | None = Field(
        None, description="What a row holds. Default: what the first one seems to."
    )
    expires_after_seconds: int | None = Field(
        None, ge=1, le=MAX_LIFETIME, description="Remove it then, should no run need it."
    )

    @classmethod
    def of(cls, form: Form) -> "UploadFields":
        """Raises `InvalidRequest`."""
        try:
            return cls.model_validate(form.fields)
        except ValidationError as error:
            raise InvalidRequest(*explain(error.errors(), [*cls.model_fields, "file"])) from None


@dataclass(frozen=True)
class Intake:
    """Where what one request brings goes."""

    caller: Caller
    settings: Settings
    database: Database
    files: DatasetFiles
    audit: Audit

    async def receive(
        self,
        request: Request,
        response: Response,
        key: str | None,
        fields_of: Callable[[Form], UploadFields],
    ) -> Dataset:
        """The listed dataset, or the one that an earlier request with this key has made."""
        most, room = self.settings.max_upload_mib * MIB, await self._room()
        limit = most if room is None else min(most, room)
        try:
            return await self._receive(request, response, key, fields_of, limit)
        except UploadTooLarge:
            quotas.require_fits(limit + 1, room)  # the nearer of the two limits has refused it
            raise

    async def _receive(
        self,
        request: Request,
        response: Response,
        key: str | None,
        fields_of: Callable[[Form], UploadFields],
        limit: int,
    ) -> Dataset:
        with self.files.receive(self.caller.owner, limit=limit) as incoming:
            form = await receive(request, "file", incoming.write, limit)
            fields, name = fields_of(form), registry.plain_name(form.filename)
            received = await run_in_threadpool(take, incoming, name, fields.prompt_format)
            once = Once(key, _digest(request, name, fields, received), response)
            return await run_in_threadpool(self._list, incoming, received, name, fields, once)

    async def _room(self) -> int | None:
        """Bytes that the quota leaves; asked only of a key that has one."""
        if self.caller.quota.max_stored_bytes is None:
            return None
        return await run_in_threadpool(self._ask_room)

    def _ask_room(self) -> int | None:
        with self.database.reading() as session:
            return quotas.room_for_bytes(session, self.caller, now=now(session))

    def _list(
        self,
        incoming: Incoming,
        received: Received,
        name: str,
        fields: UploadFields,
        once: Once,
    ) -> Dataset:
        seconds = fields.expires_after_seconds
        lifetime = timedelta(seconds=seconds) if seconds else None
        with self.database.transaction() as session:
            at = now(session)

            def add() -> str:
                quotas.require_room_for_bytes(session, self.caller, received.size, now=at)
                said = {"bytes": received.size, "sha256": received.facts.sha256}
                self.audit.note(
                    session, self.caller, Action.DATASET_CREATED, received.id, now=at, **said
                )
                return registry.add_dataset(
                    session,
                    received,
                    owner=self.caller.owner,
                    name=name,
                    lifetime=lifetime,
                    now=at,
                ).id

            made = once.make(session, self.caller.owner, add, now=at)
            dataset = registry.get_dataset(session, self.caller.owner, made.id)
        if not made.is_new:
            incoming.withdraw()
        return dataset


def _digest(request: Request, name: str, fields: UploadFields, received: Received) -> str:
    """Of the whole request, but for how its parts were separated."""
    what = f"{request.method} {request.url.path}\n{name}\n{fields.model_dump_json()}"
    return hashlib.sha256(f"{what}\n{received.facts.sha256}".encode()).hexdigest()
