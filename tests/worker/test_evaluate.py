"""Real models answer real rows: what a worker makes of an evaluation."""

import json
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finlora_core.access.keys import Caller
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.quota import UNLIMITED
from finlora_core.access.scopes import ALL
from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.db.models import EvaluationResult, Run
from finlora_core.db.session import Database, now
from finlora_core.evaluation import outputs, results
from finlora_core.evaluation.config import EvaluationRequest
from finlora_core.evaluation.outputs import Output
from finlora_core.evaluation.posting import create_evaluation
from finlora_core.evaluation.sets import find_sets
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.kind import RunKind
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from tests.service import publish
from tests.support import BASE_MODEL, eventually, make_config
from tests.worker.test_bert_score import make_tiny_bert
from tests.worker.test_merger import make_adapter
from worker.attempt import work_until_idle
from worker.bench import Bench
from worker.bert_score import LAYERS

pytestmark = pytest.mark.training

SENTENCES = ("Profit rose.", "The plant in Oulu was closed and 240 people lost their work.", "X")
LABELS = ("positive", "negative", "neutral")

Post = Callable[..., str]


@pytest.fixture
def settings(settings: Settings, tiny_base: Path) -> Settings:
    return settings.model_copy(update={"models_dirs": (tiny_base,)})


@pytest.fixture
def bench(settings: Settings, sqlite: Database) -> Bench:
    settings.runs.mkdir(parents=True)
    store = AdapterStore(settings.adapters)
    return Bench(settings, sqlite, store, Hardware.CPU, owner="w")


@pytest.fixture
def adapter(sqlite: Database, bench: Bench, tiny_adapter: Path) -> str:
    return publish(sqlite, bench.store, tiny_adapter, make_config(quant_bits=None)).id


@pytest.fixture
def publish_made(
    sqlite: Database, bench: Bench, tiny_base: Path, tmp_path: Path
) -> Callable[..., str]:
    def publish_made(**how: Any) -> str:
        output = make_adapter(tiny_base, tmp_path / "made", **how)
        return publish(sqlite, bench.store, output, make_config(quant_bits=None)).id

    return publish_made


@pytest.fixture
def post(sqlite: Database, settings: Settings) -> Post:
    caller = Caller(owner=DEFAULT_OWNER, key_id="k", scopes=frozenset(ALL), quota=UNLIMITED)

    def post(**keys: Any) -> str:
        request = EvaluationRequest.model_validate(keys)
        sets = find_sets(request, DEFAULT_OWNER, settings, DatasetChecker())
        with sqlite.transaction() as session:
            return create_evaluation(session, request, caller, sets, now=now(session)).id

    return post


def write_rows(settings: Settings, rows: Sequence[Any], name: str = "rows.jsonl") -> str:
    path = settings.datasets[0] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def sentiment(rows: int = 7) -> list[dict[str, str]]:
    return [
        {"context": SENTENCES[n % 3] * (1 + n % 4), "target": LABELS[n % 3]} for n in range(rows)
    ]


def seen(database: Database, id: str) -> Run:
    with database.reading() as session:
        return queries.get_run(session, DEFAULT_OWNER, id, RunKind.EVALUATION)


def results_in(database: Database, id: str) -> Sequence[EvaluationResult]:
    with database.reading() as session:
        return results.results_of(session, [id]).get(id, ())


def outputs_of(database: Database, result: EvaluationResult) -> list[Output]:
    with database.reading() as session:
        packed = results.packed_outputs(session, result.owner, result.run_id, result.id)
    return list(outputs.read(packed))


def test_a_base_and_its_adapters_answer_every_row_of_every_set(
    bench: Bench, settings: Settings, sqlite: Database, adapter: str, post: Post
) -> None:
    write_rows(settings, sentiment(), "tfns_test.jsonl")
    chat = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
        for text in SENTENCES
    ]
    own = {"dataset_path": write_rows(settings, chat, "chat.jsonl"), "metric": "rouge_l"}
    id = post(
        adapters=[adapter],
        base_model=BASE_MODEL,
        tasks=[{"task": "tfns"}, {**own, "max_new_tokens": 5}],
        batch_size=3,
    )
    work_until_idle(bench)
    run, found = seen(sqlite, id), results_in(sqlite, id)
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_log)
    assert [(r.adapter_id, r.task, r.rows) for r in found] == [
        (None, "tfns", 7),
        (None, None, 3),
        (adapter, "tfns", 7),
        (adapter, None, 3),
    ]
    assert found[0].rows_sha256 == found[2].rows_sha256 != found[1].rows_sha256
    for result in found:
        written = outputs_of(sqlite, result)
        assert [one.line for one in written] == list(range(1, result.rows + 1))
        weight = sum(one.weight for one in written)
        assert result.value == pytest.approx(sum(one.score for one in written) / weight)
        assert result.low is not None
        assert result.high is not None
        assert result.low <= (result.value or 0) <= result.high
    assert [one.output for one in outputs_of(sqlite, found[0])] != [
        one.output for one in outputs_of(sqlite, found[2])
    ]
    progress = run.progress or {}
    assert (progress["step"], progress["max_steps"], progress["percent"]) == (20, 20, 100.0)


def test_answers_in_batches_are_those_of_one_question_at_a_time(
    bench: Bench, settings: Settings, sqlite: Database, adapter: str, post: Post
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(9)), "metric": "accuracy"}
    asked = {"adapters": [adapter], "tasks": [{**one_set, "max_new_tokens": 12}]}
    ids = [post(**asked, batch_size=size) for size in (1, 4)]
    work_until_idle(bench)
    singly, together = (outputs_of(sqlite, results_in(sqlite, id)[0]) for id in ids)
    assert singly == together
    assert len({one.output for one in singly}) > 1


def test_each_adapter_is_judged_on_a_base_in_the_bits_it_was_trained_in(
    bench: Bench, settings: Settings, sqlite: Database, tiny_adapter: Path, post: Post
) -> None:
    adapters = [
        publish(sqlite, bench.store, tiny_adapter, make_config(quant_bits=bits)).id
        for bits in (4, 8, None)
    ]
    one_set = {"dataset_path": write_rows(settings, sentiment()), "metric": "accuracy"}
    id = post(adapters=adapters, tasks=[one_set])
    work_until_idle(bench)
    run, found = seen(sqlite, id), results_in(sqlite, id)
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_log)
    assert [(r.adapter_id, r.quant_bits) for r in found] == list(
        zip(adapters, (4, 8, None), strict=True)
    )
    texts = [[one.output for one in outputs_of(sqlite, result)] for result in found]
    assert texts[0] != texts[2]  # the same adapter: only the base can make the difference


def test_a_limit_draws_the_same_rows_for_the_same_seed(
    bench: Bench, settings: Settings, sqlite: Database, post: Post
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(40)), "metric": "accuracy"}
    asked = {"base_model": BASE_MODEL, "tasks": [{**one_set, "max_new_tokens": 1}], "limit": 5}
    ids = [post(**asked, seed=seed) for seed in (1, 1, 2)]
    work_until_idle(bench)
    lines = [[o.line for o in outputs_of(sqlite, results_in(sqlite, id)[0])] for id in ids]
    assert lines[0] == lines[1] != lines[2]
    assert all(len(each) == 5 and each == sorted(each) for each in lines)


def test_a_prompt_that_leaves_no_room_is_counted_and_not_answered(
    bench: Bench, settings: Settings, sqlite: Database, post: Post
) -> None:
    rows = [*sentiment(3), {"context": "word " * 5000, "target": "positive"}]
    one_set = {"dataset_path": write_rows(settings, rows), "metric": "accuracy"}
    id = post(base_model=BASE_MODEL, tasks=[one_set])
    work_until_idle(bench)
    (result,) = results_in(sqlite, id)
    assert (result.rows, result.summary["too_long"]) == (4, 1)
    assert outputs_of(sqlite, result)[3].output == ""


def test_rows_that_changed_since_they_were_posted_are_not_judged(
    bench: Bench, settings: Settings, sqlite: Database, post: Post
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "accuracy"}
    id = post(base_model=BASE_MODEL, tasks=[one_set])
    write_rows(settings, sentiment(4))
    work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "dataset_changed")


def test_a_base_that_is_nowhere_is_named(
    bench: Bench, settings: Settings, sqlite: Database, post: Post
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "accuracy"}
    id = post(base_model="nobody/nothing", tasks=[one_set])
    away = settings.model_copy(update={"hf_endpoint": "http://127.0.0.1:9"})
    work_until_idle(replace(bench, settings=away))
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "base_model_not_found")
    assert "nobody/nothing" in (run.error_hint or "")


def test_an_adapter_that_is_gone_meanwhile_is_named(
    bench: Bench, settings: Settings, sqlite: Database, adapter: str, post: Post
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "accuracy"}
    id = post(adapters=[adapter], tasks=[one_set])
    (bench.store.folder(adapter) / "adapter_model.safetensors").unlink()
    work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "adapter_unreadable")
    assert adapter in (run.error_hint or "")


def test_an_adapter_with_added_tokens_is_told_what_can_be_done(
    bench: Bench,
    settings: Settings,
    sqlite: Database,
    adapter: str,
    publish_made: Callable[..., str],
    post: Post,
) -> None:
    grown = publish_made(added_tokens=8)
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "accuracy"}
    id = post(adapters=[adapter, grown], tasks=[one_set])
    work_until_idle(bench)
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "added_tokens")
    assert grown in (run.error_hint or "")
    assert adapter not in (run.error_hint or "")


def test_an_adapter_with_embeddings_of_its_own_leaves_the_base_of_others_alone(
    bench: Bench,
    settings: Settings,
    sqlite: Database,
    adapter: str,
    publish_made: Callable[..., str],
    post: Post,
) -> None:
    whole = publish_made(has_embeddings=True)
    own = {"dataset_path": write_rows(settings, sentiment()), "metric": "rouge_l"}
    alone = post(adapters=[adapter], tasks=[own])
    behind = post(adapters=[whole, adapter], tasks=[own])
    work_until_idle(bench)
    (one,) = results_in(sqlite, alone)
    (first, second) = results_in(sqlite, behind)
    assert [r.adapter_id for r in (one, first, second)] == [adapter, whole, adapter]
    assert outputs_of(sqlite, second) == outputs_of(sqlite, one) != outputs_of(sqlite, first)


@pytest.mark.parametrize("is_there", [True, False])
def test_free_text_has_a_bertscore_where_its_model_is_at_hand(
    bench: Bench, settings: Settings, sqlite: Database, post: Post, is_there: bool, tmp_path: Path
) -> None:
    scorer, layer = next(iter(LAYERS.items()))
    if is_there:
        make_tiny_bert(tmp_path / "scorers" / scorer, layers=layer)
    roots = (*settings.models_dirs, tmp_path / "scorers")
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "rouge_l"}
    id = post(base_model=BASE_MODEL, tasks=[one_set])
    scoring = settings.model_copy(update={"models_dirs": roots})
    work_until_idle(replace(bench, settings=scoring))
    run = seen(sqlite, id)
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_log)
    (result,) = results_in(sqlite, id)
    assert result.summary.get("bert_scorer") == (scorer if is_there else None)
    assert ("bert_score" in result.summary) == is_there


# With a stand-in for the process that answers


def saying(bench: Bench, lines: str) -> Bench:
    script = bench.settings.home / "evaluator.py"
    prologue = "import os, sys, time\nfrom pathlib import Path\n"
    root = "root = Path(os.environ['FINLORA_ATTEMPT_DIR'])\n"
    script.write_text(prologue + root + lines)
    return replace(bench, evaluate_command=(sys.executable, str(script)))


ANSWER = (
    """(root / "answers.jsonl").write_text('{"model": 0, "set": 0, "row": 0, "text": "up"}')\n"""
)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ("sys.exit(3)", "evaluation_error"),
        (ANSWER, "evaluation_error"),
        (ANSWER + "(root / 'completed.json').write_text('{}')", "evaluation_error"),
        ("print('torch.OutOfMemoryError: CUDA out of memory'); sys.exit(1)", "cuda_out_of_memory"),
    ],
)
def test_half_an_answer_is_none(
    bench: Bench, settings: Settings, sqlite: Database, post: Post, lines: str, code: str
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "accuracy"}
    id = post(base_model=BASE_MODEL, tasks=[one_set])
    work_until_idle(saying(bench, lines))
    run = seen(sqlite, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, code)
    assert "the evaluation" in (run.error_hint or "").lower()
    assert not results_in(sqlite, id)


def test_a_running_evaluation_can_be_cancelled(
    bench: Bench, settings: Settings, sqlite: Database, post: Post
) -> None:
    one_set = {"dataset_path": write_rows(settings, sentiment(3)), "metric": "accuracy"}
    id = post(base_model=BASE_MODEL, tasks=[one_set])
    worker = threading.Thread(target=work_until_idle, args=[saying(bench, "time.sleep(60)")])
    worker.start()
    assert eventually(lambda: seen(sqlite, id).phase == "evaluating")
    with sqlite.transaction() as session:
        lifecycle.request_cancel(session, id, now=now(session))
    worker.join(20)
    assert seen(sqlite, id).status is RunStatus.CANCELLED
    assert not results_in(sqlite, id)
