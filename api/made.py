"""The answer to a POST that has made a run of any kind, or did so before."""

from fastapi import Response
from pydantic import BaseModel

from api.json import as_json
from api.queue import WorkerQueue
from finlora_core.db.session import Database
from finlora_core.idempotency import Made
from finlora_core.runs import posting


def answer_made(
    response: Response, db: Database, queue: WorkerQueue, made: Made, read: BaseModel, *, at: str
) -> Response:
    """After the commit. `at` is the path that things of this kind are below: `/runs`."""
    if made.is_new:
        posting.offer(db, queue, made.id)
    return respond(response, made, read, at=at)


def respond(response: Response, made: Made, read: BaseModel, *, at: str) -> Response:
    """The same, where the offer is made already."""
    response.headers["Location"] = f"{at}/{made.id}"
    return as_json(read, status=201, headers=response.headers)
