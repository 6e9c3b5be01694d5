"""The floor: what FastAPI, uvicorn, SQLAlchemy and the database cost when nothing is done with
them. One route with one INSERT, one with one SELECT, on the service's own engine and sessions.

    FLOOR_DATABASE_URL=sqlite:///… uvicorn benchmarks.side_by_side.floor:app
"""

import os
import uuid
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, HTTPException
from sqlalchemy import JSON, Column, DateTime, MetaData, String, Table, insert, make_url, select

from finlora_core.db.session import Database

app = FastAPI()
database = Database.connect(make_url(os.environ["FLOOR_DATABASE_URL"]))
metadata = MetaData()
rows = Table(
    "rows",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", DateTime),
    Column("config", JSON),
)
metadata.create_all(database.engine)


@app.post("/rows", status_code=201)
def create(config: dict[str, Any]) -> dict[str, Any]:
    row = {"id": uuid.uuid4().hex, "created_at": datetime.now(UTC), "config": config}
    with database.transaction() as session:
        session.execute(insert(rows).values(**row))
    return row


@app.get("/rows/{id}")
def read(id: str) -> dict[str, Any]:
    with database.reading() as session:
        row = session.execute(select(rows).where(rows.c.id == id)).one_or_none()
    if row is None:
        raise HTTPException(404)
    return dict(row._mapping)
