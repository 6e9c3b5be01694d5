"""What a user of the `openai` package does, against a server of ours.

Run by the interpreter of an environment that has a release of it:

    python drive.py URL KEY READER STRANGER POOR BASE_MODEL FINISHED_JOB

READER is a key that may only read files, STRANGER one of another owner, POOR one that may have no
run queued. FINISHED_JOB has succeeded, has events and a checkpoint at step 5. Answers are checked
by the package's own models, strictly.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import openai

URL, KEY, READER, STRANGER, POOR, BASE_MODEL, FINISHED = sys.argv[1:]

FINLORA = [{"context": f"Profit rose by {n}.", "target": "positive"} for n in range(4)]
CHAT = [
    {"messages": [{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": "Yes."}]}
    for n in range(4)
]


def client(key: str = KEY, *, strict: bool = True) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{URL}/v1", api_key=key, max_retries=0, _strict_response_validation=strict
    )


ai = client()


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def upload(rows: list[dict[str, Any]] = FINLORA) -> str:
    return ai.files.create(file=("train.jsonl", lines(rows)), purpose="fine-tune").id


def refused(kind: type[openai.APIStatusError], call: Callable[[], object]) -> Any:
    """The error that the call raises, which must be of this kind and no other."""
    raised: openai.APIStatusError | None = None
    try:
        call()
    except openai.APIStatusError as error:
        raised = error
    assert type(raised) is kind, f"{kind.__name__} was expected, not {raised!r}"
    assert raised.message
    assert raised.code
    assert raised.type
    return raised


def files() -> None:
    file = ai.files.create(file=("train.jsonl", lines(FINLORA)), purpose="fine-tune")
    assert (file.filename, file.bytes) == ("train.jsonl", len(lines(FINLORA)))
    assert (file.status, file.purpose, file.expires_at) == ("processed", "fine-tune", None)
    assert ai.files.retrieve(file.id) == file
    assert ai.files.content(file.id).read() == lines(FINLORA)
    others = [upload(CHAT) for _ in range(4)]
    listed = [each.id for each in ai.files.list(limit=2)]
    assert listed[:5] == [*others[::-1], file.id]
    assert ai.files.list(purpose="assistants").data == []
    assert ai.files.delete(file.id).deleted
    assert refused(openai.NotFoundError, lambda: ai.files.retrieve(file.id)).code == "not_found"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "from_disk.jsonl"
        path.write_bytes(lines(FINLORA))
        sent = ai.files.create(
            file=path,
            purpose="fine-tune",
            extra_body={"expires_after": {"anchor": "created_at", "seconds": 3600}},
        )
        assert sent.filename == "from_disk.jsonl"
        assert sent.expires_at == sent.created_at + 3600


def uploads() -> None:
    content = lines(FINLORA * 50)
    announced = ai.uploads.create(
        bytes=len(content), filename="big.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert announced.status == "pending"
    half = len(content) // 2
    last = ai.uploads.parts.create(announced.id, data=content[half:])
    first = ai.uploads.parts.create(announced.id, data=content[:half])
    done = ai.uploads.complete(announced.id, part_ids=[first.id, last.id])
    assert done.status == "completed"
    assert done.file is not None
    assert ai.files.content(done.file.id).read() == content
    assert ai.uploads.complete(announced.id, part_ids=[first.id, last.id]) == done
    again = ai.uploads.upload_file_chunked(
        file=content,
        filename="chunked.jsonl",
        bytes=len(content),
        mime_type="text/jsonl",
        purpose="fine-tune",
        part_size=1000,
    )
    assert again.file is not None
    assert again.file.bytes == len(content)
    given_up = ai.uploads.create(
        bytes=10, filename="no.jsonl", mime_type="text/jsonl", purpose="fine-tune"
    )
    assert ai.uploads.cancel(given_up.id).status == "cancelled"
    refused(openai.ConflictError, lambda: ai.uploads.parts.create(given_up.id, data=b"0123456789"))


def creation() -> None:
    plain = ai.fine_tuning.jobs.create(model=BASE_MODEL, training_file=upload())
    assert (plain.object, plain.status, plain.model) == ("fine_tuning.job", "queued", BASE_MODEL)
    assert plain.hyperparameters.n_epochs == 4
    assert plain.hyperparameters.batch_size == 8
    assert plain.hyperparameters.learning_rate_multiplier == 1
    assert (plain.seed, plain.error, plain.fine_tuned_model) == (42, None, None)
    assert ai.fine_tuning.jobs.retrieve(plain.id) == plain

    training, validation = upload(CHAT), upload(CHAT)
    full = ai.fine_tuning.jobs.create(
        model=BASE_MODEL,
        training_file=training,
        validation_file=validation,
        suffix="mine",
        seed=7,
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {
                    "n_epochs": 2,
                    "batch_size": 6,
                    "learning_rate_multiplier": 0.5,
                }
            },
        },
        metadata={"ticket": "FT-7"},
        extra_body={"lora_r": 4, "quant_bits": 8},
    )
    assert (full.training_file, full.validation_file) == (training, validation)
    assert full.hyperparameters.n_epochs == 2
    assert full.hyperparameters.batch_size == 6
    assert full.hyperparameters.learning_rate_multiplier == 0.5
    assert (full.seed, full.metadata) == (7, {"ticket": "FT-7"})
    assert full.method is not None
    assert full.method.type == "supervised"

    old = ai.fine_tuning.jobs.create(
        model=BASE_MODEL,
        training_file=upload(),
        hyperparameters={"n_epochs": "auto", "batch_size": 1, "learning_rate_multiplier": "auto"},
    )
    assert (old.hyperparameters.n_epochs, old.hyperparameters.batch_size) == (4, 1)


def lists() -> None:
    training = upload()
    ids = [
        ai.fine_tuning.jobs.create(model=BASE_MODEL, training_file=training).id for _ in range(60)
    ]
    page = ai.fine_tuning.jobs.list()
    assert len(page.data) == 20
    assert page.has_more
    seen = [job.id for job in ai.fine_tuning.jobs.list()]
    assert seen[:60] == ids[::-1]
    assert len(seen) == len(set(seen))


def steering() -> None:
    job = ai.fine_tuning.jobs.create(model=BASE_MODEL, training_file=upload())
    jobs = client(strict=False).fine_tuning.jobs  # no release of it knows the status `paused`
    assert str(jobs.pause(job.id).status) == "paused"
    assert ai.fine_tuning.jobs.resume(job.id).status == "queued"
    assert ai.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    told = [event.message for event in ai.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert told[0] == "The run is cancelled."
    assert told[-1] == "The run is queued."
    assert ai.fine_tuning.jobs.checkpoints.list(job.id).data == []


def finished_job() -> None:
    job = ai.fine_tuning.jobs.retrieve(FINISHED)
    assert job.status == "succeeded"
    assert job.finished_at is not None
    assert job.trained_tokens == 1234
    events = ai.fine_tuning.jobs.list_events(FINISHED).data
    assert [event.object for event in events] == ["fine_tuning.job.event"] * len(events)
    assert events[-1].message == "The run is queued."
    (checkpoint,) = ai.fine_tuning.jobs.checkpoints.list(FINISHED).data
    assert (checkpoint.step_number, checkpoint.fine_tuning_job_id) == (5, FINISHED)
    assert (checkpoint.metrics.train_loss, checkpoint.metrics.valid_loss) == (0.5, 0.75)
    (results,) = job.result_files
    assert ai.files.retrieve(results).purpose == "fine-tune-results"
    table = ai.files.content(results).read().decode().splitlines()
    assert table == [
        "step,train_loss,valid_loss,learning_rate", "5,0.5,0.75,", "6,0.25,,",
    ]  # fmt: skip
    names = [model.id for model in ai.models.list()]
    assert BASE_MODEL in names
    assert job.fine_tuned_model in names
    assert job.fine_tuned_model is not None
    assert ai.models.retrieve(job.fine_tuned_model).object == "model"
    assert ai.models.retrieve(BASE_MODEL).owned_by == "finlora"


def errors() -> None:
    training, jobs = upload(), ai.fine_tuning.jobs
    bad = refused(
        openai.BadRequestError,
        lambda: ai.files.create(file=("x.jsonl", b'{"context": "a"}\n'), purpose="fine-tune"),
    )
    assert (bad.param, bad.code) == ("file", "invalid_dataset")
    assert "line 1" in bad.message
    wrong_purpose = refused(
        openai.BadRequestError,
        lambda: ai.files.create(file=("x.jsonl", lines(FINLORA)), purpose="assistants"),
    )
    assert wrong_purpose.param == "purpose"

    def create(**keys: Any) -> Any:
        return jobs.create(**{"model": BASE_MODEL, "training_file": training, **keys})

    wrong: dict[str, dict[str, Any]] = {
        "method.type": {"method": {"type": "dpo"}},
        "integrations": {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
        "training_file": {"training_file": "file-none"},
        "validation_file": {"validation_file": "file-none"},
        "lora_rank": {"extra_body": {"lora_rank": 8}},
        "lora_r": {"extra_body": {"lora_r": 0}},
        "suffix": {"suffix": "../up"},
        "model": {"model": "../../etc"},
        "hyperparameters.n_epochs": {"hyperparameters": {"n_epochs": 0}},
        "method.supervised.hyperparameters.learning_rate_multiplier": {
            "hyperparameters": {"learning_rate_multiplier": 1e6}
        },
    }
    for param, keys in wrong.items():
        error = refused(openai.BadRequestError, partial(create, **keys))
        assert param in str(error.param), (param, error.param, error.message)
    refused(openai.NotFoundError, lambda: jobs.retrieve("ftjob-none"))
    refused(openai.NotFoundError, lambda: ai.models.retrieve("nobody/nothing"))
    finished = refused(openai.ConflictError, lambda: jobs.cancel(FINISHED))
    assert finished.code == "illegal_transition"
    create()
    in_use = refused(openai.ConflictError, lambda: ai.files.delete(training))
    assert in_use.code == "dataset_in_use"


def keys() -> None:
    mine = upload()
    for wrong in ("none", "finlora_wrong", KEY[:-1]):
        refused(openai.AuthenticationError, client(wrong).models.list)
    reader, stranger = client(READER), client(STRANGER)
    assert reader.files.retrieve(mine).id == mine
    refused(openai.PermissionDeniedError, lambda: reader.files.delete(mine))
    refused(openai.PermissionDeniedError, reader.fine_tuning.jobs.list)
    (results,) = ai.fine_tuning.jobs.retrieve(FINISHED).result_files
    for file_id in (mine, results):
        refused(openai.NotFoundError, partial(stranger.files.content, file_id))
    refused(openai.NotFoundError, lambda: stranger.fine_tuning.jobs.retrieve(FINISHED))
    taken = partial(stranger.fine_tuning.jobs.create, model=BASE_MODEL, training_file=mine)
    assert refused(openai.BadRequestError, taken).param == "training_file"
    assert stranger.files.list().data == []
    assert [model.id for model in stranger.models.list()] == [BASE_MODEL]


def quota() -> None:
    poor = client(POOR)
    file = poor.files.create(file=("train.jsonl", lines(FINLORA)), purpose="fine-tune").id
    create = partial(poor.fine_tuning.jobs.create, model=BASE_MODEL, training_file=file)
    refusal = refused(openai.RateLimitError, create)
    assert refusal.code == "quota_exceeded"
    assert int(refusal.response.headers["Retry-After"]) > 0


for step in (files, uploads, creation, lists, steering, finished_job, errors, keys, quota):
    step()
print(f"openai {openai.__version__}: all of it works")
