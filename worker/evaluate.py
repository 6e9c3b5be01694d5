"""An evaluation, readable as a list: prepare, let the models answer, judge."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.errors import (
    AdapterDamaged,
    AdapterFilesMissing,
    DatasetNotFound,
    InvalidDataset,
    InvalidRequest,
)
from finlora_core.evaluation import results
from finlora_core.evaluation.plan import Plan, Subject, plan
from finlora_core.evaluation.results import make_result
from finlora_core.evaluation.sets import FoundSet, Rows, find_sets, sha256_of
from finlora_core.evaluation.tasks import Metric
from finlora_core.runs.status import Phase
from finlora_core.training.diagnose import FailureCode
from worker.bench import Bench
from worker.errand import Answer, Asked, Completed, Errand, Meaning, Questions
from worker.facts import Evaluation
from worker.finish import Product
from worker.prepare import (
    adapter_folder,
    failed,
    needs_own_base,
    require_base_model,
    require_disk,
    require_same_vocabulary,
)
from worker.run_errand import run_errand
from worker.supervise import Watch


def perform_evaluation(bench: Bench, attempt: Evaluation, watch: Watch) -> Product:
    """Raises `AttemptEnded`, `LeaseLost`."""
    attempt.files.create()
    require_disk(bench, attempt)
    sets = _unchanged_sets(bench, attempt)
    planned, adapters = _adapters(bench, attempt)
    base = require_base_model(bench, attempt, watch)
    require_same_vocabulary(base, filter(None, adapters))
    bench.enter_phase(attempt.lease, Phase.EVALUATING)
    rows = [one.rows(attempt.config.limit, attempt.config.seed) for one in sets]
    errand = Errand(
        base=base,
        hardware=bench.hardware,
        batch_size=attempt.config.batch_size,
        models=tuple(
            Asked(
                adapter=folder,
                quant_bits=subject.quant_bits,
                changes_base=folder is not None and needs_own_base(folder),
            )
            for subject, folder in zip(planned.subjects, adapters, strict=True)
        ),
        sets=tuple(_questions(one, those) for one, those in zip(sets, rows, strict=True)),
        scorers=(*bench.settings.models, bench.settings.fetched_models),
    )
    command = bench.evaluate_command
    run_errand(bench, attempt, errand, command, watch, FailureCode.EVALUATION_ERROR)
    bench.enter_phase(attempt.lease, Phase.PUBLISHING)
    answers, meanings = _answers(attempt, errand), _meanings(attempt)
    found = [
        make_result(subject, of, those, answers[m, s], meanings.get((m, s)))
        for m, subject in enumerate(planned.subjects)
        for s, (of, those) in enumerate(zip(sets, rows, strict=True))
    ]
    return Product(lambda session, run: results.store(session, run, found))


def _unchanged_sets(bench: Bench, attempt: Evaluation) -> Sequence[FoundSet]:
    try:
        sets = find_sets(attempt.config, attempt.owner, bench.settings, DatasetChecker())
    except (DatasetNotFound, InvalidDataset, InvalidRequest) as error:
        raise failed(FailureCode.DATASET_UNREADABLE, detail=str(error)) from None
    if sha256_of(sets) != attempt.dataset_sha256:
        written = ", ".join(one.written for one in sets)
        raise failed(FailureCode.DATASET_CHANGED, detail=written)
    return sets


def _adapters(bench: Bench, attempt: Evaluation) -> tuple[Plan, Sequence[Path | None]]:
    """Who is to be judged, and the folder of each that is an adapter."""
    try:
        with bench.database.reading() as session:
            planned = plan(session, attempt.config, attempt.owner)
            return planned, [_folder(bench, session, subject) for subject in planned.subjects]
    except (AdapterDamaged, AdapterFilesMissing, InvalidRequest) as error:
        raise failed(FailureCode.ADAPTER_UNREADABLE, detail=str(error)) from None


def _folder(bench: Bench, session: Session, subject: Subject) -> Path | None:
    if subject.adapter_id is None:
        return None
    return adapter_folder(bench, registry.get_any_adapter(session, subject.adapter_id))


def _questions(of: FoundSet, rows: Rows) -> Questions:
    return Questions(
        form=of.form,
        max_new_tokens=of.task.max_new_tokens,
        given=tuple(row.given for row in rows.rows),
        free_text=tuple(rows.targets) if of.task.metric is Metric.ROUGE_L else None,
    )


def _answers(attempt: Evaluation, errand: Errand) -> Mapping[tuple[int, int], Sequence[Answer]]:
    """By model and set, in the order of the rows. Raises `AttemptEnded` when one is missing."""
    sizes = {
        (m, s): len(questions.given)
        for m in range(len(errand.models))
        for s, questions in enumerate(errand.sets)
    }
    found: dict[tuple[int, int], dict[int, Answer]] = {key: {} for key in sizes}
    with attempt.files.answers.open(encoding="utf-8", errors="replace") as lines:
        for answer in filter(None, map(Answer.parse, lines)):
            if answer.row in range(sizes.get((answer.model, answer.set), 0)):
                found[answer.model, answer.set][answer.row] = answer
    if any(len(found[key]) < size for key, size in sizes.items()):
        raise failed(FailureCode.EVALUATION_ERROR, detail="not every row was answered")
    return {key: [of[row] for row in range(sizes[key])] for key, of in found.items()}


def _meanings(attempt: Evaluation) -> Mapping[tuple[int, int], Meaning]:
    """By model and set. Raises `AttemptEnded` when the marker makes no sense."""
    try:
        completed = Completed.model_validate_json(attempt.files.completed.read_text())
    except ValueError as error:
        raise failed(FailureCode.EVALUATION_ERROR, detail=f"its marker: {error}") from None
    return {(one.model, one.set): one for one in completed.meanings}
