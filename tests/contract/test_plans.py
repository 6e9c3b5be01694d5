"""How the databases find what is asked for: through an index that has the list's order in it, so
that a page costs the same whichever filter is given and however many rows there are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, event, literal, select
from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.audit import chain, log
from finlora_core.audit.action import Action
from finlora_core.audit.log import Filters
from finlora_core.db.session import Database
from finlora_core.evaluation import comparisons
from finlora_core.runs import lifecycle, queries, turns
from finlora_core.runs.kind import RunKind
from finlora_core.runs.status import RunStatus
from finlora_core.stages.stage import Stage
from tests.support import NOON

Ask = Callable[[Session], object]

SORTED = ("TEMP B-TREE", "Sort")
"""What the plans of SQLite and PostgreSQL say where no index has the order."""


def runs(**wanted: Any) -> Ask:
    filters = {"status": None, "name": None, "variant": None, **wanted}
    return lambda session: queries.show_runs(
        session.connection(), "ann", **filters, cursor=None, limit=9
    )


def evaluations(session: Session) -> None:
    queries.list_runs(
        session,
        "ann",
        kind=RunKind.EVALUATION,
        status=None,
        name=None,
        cursor=None,
        limit=9,
    )


def adapters(**wanted: Any) -> Ask:
    names = ("name", "variant", "base_model", "run_id", "stage")
    filters = {**dict.fromkeys(names), **wanted}
    return lambda session: registry.list_adapters(session, "ann", **filters, cursor=None, limit=9)


def entries(**wanted: Any) -> Ask:
    return lambda session: log.list_entries(session, Filters(**wanted), limit=9)


def claim(session: Session) -> None:
    session.execute(lifecycle._first_in_line("ann", NOON + timedelta(days=1), gpus=1))


def served(session: Session) -> None:
    session.execute(select(turns._served(literal("ann"))))


def newest_seal(session: Session) -> None:
    session.execute(chain._NEWEST)


PLANS = {
    "runs": ("ix_runs_page", runs()),
    "runs by status": ("ix_runs_status_page", runs(status=RunStatus.FAILED)),
    "runs by name": ("ix_runs_name_page", runs(name="n")),
    "runs by variant": ("ix_runs_variant_page", runs(variant="fp16_r8")),
    "evaluations": ("ix_runs_page", evaluations),
    "adapters": ("ix_adapters_page", adapters()),
    "adapters by name": ("ix_adapters_name_page", adapters(name="n")),
    "adapters by variant": ("ix_adapters_variant_page", adapters(variant="fp16_r8")),
    "adapters by base model": ("ix_adapters_base_model_page", adapters(base_model="org/model")),
    "adapters by stage": ("ix_adapters_stage_page", adapters(stage=Stage.STAGING)),
    "adapters by name and stage": (
        "ix_adapters_name_stage_page",
        adapters(name="n", stage=Stage.PRODUCTION),
    ),
    "comparisons": (
        "ix_comparisons_page",
        lambda session: comparisons.list_comparisons(session, "ann", cursor=None, limit=9),
    ),
    "the audit log by owner": ("ix_audit_log_owner", entries(owner="ann")),
    "the audit log by key": ("ix_audit_log_key_id", entries(key_id="k")),
    "the audit log by action": ("ix_audit_log_action", entries(action=Action.RUN_CREATED)),
    "the audit log by object": ("ix_audit_log_object_id", entries(object_id="run_1")),
    "the next run": ("ix_runs_claim", claim),
    "who was served when": ("ix_runs_turn", served),
    "the newest seal": ("uq_audit_log_number", newest_seal),
}


def test_an_index_finds_each_list_in_order(database: Database) -> None:
    for name, (index, ask) in PLANS.items():
        with database.reading() as session, heard(session.connection()) as statements:
            ask(session)
            (plan,) = [explain(session, *statement) for statement in list(statements)]
        assert index in plan, f"{name}: {plan}"
        assert not any(word in plan for word in SORTED), f"{name}: {plan}"


@contextmanager
def heard(connection: Connection) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are executed, with what they are given."""
    statements: list[tuple[str, Any]] = []

    def hear(conn: Any, cursor: Any, statement: str, given: Any, *rest: Any) -> None:
        statements.append((statement, given))

    event.listen(connection, "before_cursor_execute", hear)
    yield statements
    event.remove(connection, "before_cursor_execute", hear)


def explain(session: Session, statement: str, given: Any) -> str:
    """PostgreSQL is asked for the plan that it would choose if the table were large."""
    connection = session.connection()
    if connection.dialect.name == "sqlite":
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
    else:
        for way in ("seqscan", "bitmapscan", "sort"):
            connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", given)
    return "\n".join(str(row[-1]) for row in plan)
