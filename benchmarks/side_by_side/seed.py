"""Many rows like those that are there: `INSERT … SELECT` from it, in the database itself."""

from collections.abc import Mapping

from sqlalchemy import Connection, Engine, MetaData, Table, text

SERIES = {
    "sqlite": "WITH RECURSIVE series(n) AS "
    "(SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < :count)",
    "postgresql": "WITH series(n) AS (SELECT generate_series(1, :count))",
}
_EARLIER = {
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', one.{column}, -n || ' seconds') || '000'",
    "postgresql": "one.{column} - n * interval '1 second'",
}
_SCRAMBLED = {
    "sqlite": "printf('%08x', (n * 2654435761) & 4294967295)",
    "postgresql": "lpad(to_hex((n::bigint * 2654435761) & 4294967295), 8, '0')",
}
"""2654435761 is odd: no two n below 2**32 give the same."""


def earlier(engine: Engine, column: str) -> str:
    """SQL for the n-th copy's time: that of the one it is copied from, less n seconds."""
    return _EARLIER[engine.dialect.name].format(column=column)


def scrambled(engine: Engine) -> str:
    """SQL for eight hexadecimal digits, others for each n and in no order, as in random ids."""
    return _SCRAMBLED[engine.dialect.name]


def multiply(engine: Engine, table: str, count: int, differing: Mapping[str, str]) -> None:
    """`count` copies of each of the table's rows, `one`: columns as there, or as the SQL in
    `differing` says, where n counts the copies from 1."""
    with engine.begin() as connection:
        columns = Table(table, MetaData(), autoload_with=connection).columns.keys()
        values = [differing.get(column, f'one."{column}"') for column in columns]
        _insert(connection, table, columns, values, count)


def settle(engine: Engine) -> None:
    """What PostgreSQL does by itself some time after many rows have come in.

    SQLite gathers no statistics unasked, and empties its log when the last connection closes.
    """
    if engine.dialect.name == "sqlite":
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
            connection.execute(text(statement))


def _insert(
    connection: Connection, table: str, columns: list[str], values: list[str], count: int
) -> None:
    into = ", ".join(f'"{column}"' for column in columns)
    series = SERIES[connection.dialect.name]
    select = f"SELECT {', '.join(values)} FROM (SELECT * FROM {table}) AS one, series"  # noqa: S608
    statement = f"{series} INSERT INTO {table} ({into}) {select}"
    connection.execute(text(statement), {"count": count})
