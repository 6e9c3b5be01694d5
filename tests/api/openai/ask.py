"""What a user of the `openai` package asks models, with a playground behind our server.

    python ask.py URL KEY STRANGER BASE_MODEL TUNED CHAT [all]

TUNED is an adapter that was trained on instructions, CHAT one that was trained on messages; both
belong to KEY's owner. STRANGER is a key of another one. The playground lets nobody wait long.
With `all`, what the release of the package makes no difference to is tried as well.
"""

import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import openai

URL, KEY, STRANGER, BASE, TUNED, CHAT, *ALL = sys.argv[1:]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}
LONG: dict[str, Any] = {"temperature": 1, "seed": 1, "max_tokens": 3500}
"""Longer than any test lasts."""


def client(key: str = KEY, *, strict: bool = True) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{URL}/v1", api_key=key, max_retries=0, _strict_response_validation=strict
    )


ai = client()


def user(text: str) -> Any:
    return [{"role": "user", "content": text}]


def chat(model: str = TUNED, text: str = "Profit rose.", **how: Any) -> Any:
    return ai.chat.completions.create(model=model, messages=user(text), **{**GREEDY, **how})


def said(model: str = TUNED, **how: Any) -> str:
    content = chat(model, **how).choices[0].message.content
    assert content
    return str(content)


def refused(kind: type[openai.APIStatusError], call: Callable[[], object]) -> Any:
    """The error that the call raises, which must be of this kind and no other."""
    raised: openai.APIStatusError | None = None
    try:
        call()
    except openai.APIStatusError as error:
        raised = error
    assert type(raised) is kind, f"{kind.__name__} was expected, not {raised!r}"
    return raised


def whole() -> None:
    answer = chat()
    assert answer.id.startswith("chatcmpl-")
    assert (answer.object, answer.model) == ("chat.completion", TUNED)
    assert abs(answer.created - time.time()) < 60
    (choice,) = answer.choices
    assert (choice.index, choice.finish_reason, choice.message.role) == (0, "length", "assistant")
    usage = answer.usage
    assert usage.completion_tokens == 6
    assert usage.prompt_tokens > 3
    assert usage.total_tokens == usage.prompt_tokens + 6
    assert choice.message.content == USUAL
    assert said(BASE) != USUAL
    parts: Any = [{"type": "text", "text": "Profit "}, {"type": "text", "text": "rose."}]
    same = ai.chat.completions.create(
        model=TUNED, messages=[{"role": "user", "content": parts}], **GREEDY
    )
    assert same.choices[0].message.content == USUAL


def prompts() -> None:
    """A raw text is the model's own; a chat is put as the rows of the run were."""
    raw = ai.completions.create(model=TUNED, prompt="[INST] Profit rose. [/INST]", **GREEDY)
    assert raw.id.startswith("cmpl-")
    assert raw.object == "text_completion"
    assert raw.choices[0].text == USUAL
    assert raw.usage is not None
    assert raw.usage.completion_tokens == 6
    bare = ai.completions.create(model=TUNED, prompt="Profit rose.", **GREEDY)
    assert bare.choices[0].text != USUAL
    talk = [*user("Hello."), {"role": "assistant", "content": "Yes?"}, *user("Profit rose.")]
    by_template = ai.chat.completions.create(model=CHAT, messages=talk, **GREEDY)
    assert by_template.choices[0].message.content
    marked = (
        "<|start_header_id|>user<|end_header_id|>\n\nHello.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nProfit rose.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    by_hand = ai.completions.create(model=CHAT, prompt=marked, **GREEDY)
    assert by_template.choices[0].message.content == by_hand.choices[0].text
    assert by_template.usage is not None
    assert by_hand.usage is not None
    assert by_template.usage.prompt_tokens == by_hand.usage.prompt_tokens


def streams() -> None:
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    *spoken, last = chunks
    assert (last.choices, last.usage.completion_tokens) == ([], 6)
    assert spoken[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in spoken] == [None] * (len(spoken) - 1) + ["length"]
    assert len(spoken) > 2
    assert "".join(c.choices[0].delta.content or "" for c in spoken) == USUAL
    assert all(chunk.usage is None for chunk in spoken)
    lenient = client(strict=False)  # its type has no null, OpenAI sends it
    raw = list(
        lenient.completions.create(
            model=TUNED, prompt="[INST] Profit rose. [/INST]", stream=True, **GREEDY
        )
    )
    assert "".join(chunk.choices[0].text for chunk in raw) == USUAL
    assert raw[-1].choices[0].finish_reason == "length"


def sampling() -> None:
    drawn: dict[str, Any] = {"temperature": 1, "max_tokens": 12}
    assert said(seed=7, **drawn) == said(seed=7, **drawn)
    assert said(seed=7, **drawn) != said(seed=8, **drawn)
    middle = USUAL[len(USUAL) // 2 :][:3]
    start = USUAL[: USUAL.index(middle)]
    cut = chat(stop=["never said", middle])
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (start, "stop")
    pieces = list(chat(stop=middle, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in pieces) == start


def errors() -> None:
    for model in ("nobody/nothing", "ft:nobody/nothing:local:x:1", "adp_none", "../etc"):
        refused(openai.NotFoundError, partial(chat, model))
    stranger = client(STRANGER)
    id = "adp_" + TUNED.rpartition(":")[2]
    assert said(id) == USUAL
    for model in (TUNED, id):
        error = refused(
            openai.NotFoundError,
            partial(stranger.chat.completions.create, model=model, messages=user("Hi.")),
        )
        assert error.code == "not_found"
    wrong: dict[str, Any] = {
        "max_tokens": {"max_tokens": 4096},
        "messages": {"text": "word " * 5000},
        "n": {"n": 2},
        "temperature": {"temperature": 3},
        "logprobs": {"logprobs": True},
        "tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "frequency_penalty": {"frequency_penalty": 0.5},
        "stop": {"stop": ["a", "b", "c", "d", "e"]},
    }
    for param, how in wrong.items():
        error = refused(openai.BadRequestError, partial(chat, **how))
        assert str(error.param).startswith(param), (param, error.param, error.message)
    two = [*user("Hello."), {"role": "assistant", "content": "Yes?"}, *user("Profit rose.")]
    error = refused(
        openai.BadRequestError,
        lambda: ai.chat.completions.create(model=TUNED, messages=two),
    )
    assert (error.param, "single instructions" in error.message) == ("messages", True)


def busy() -> None:
    stream = chat(stream=True, **LONG)
    next(iter(stream))
    error = refused(openai.RateLimitError, chat)
    assert error.code == "playground_busy"
    assert int(error.response.headers["retry-after"]) > 0
    stream.close()
    assert free_again()
    threading.Thread(target=given_up, daemon=True).start()
    time.sleep(0.3)
    assert free_again()


def given_up() -> None:
    """Not streamed, and the client has no patience."""
    try:
        ai.with_options(timeout=1).chat.completions.create(
            model=TUNED, messages=user("Profit rose."), **LONG
        )
    except openai.APITimeoutError:
        return


def free_again() -> bool:
    deadline = time.monotonic() + 8
    while time.monotonic() < deadline:
        try:
            return bool(chat().choices)
        except openai.RateLimitError:
            pass
    return False


USUAL = said()
"""What it says each time, with no dice."""

for step in (whole, streams, errors, busy, *((prompts, sampling) if ALL else ())):
    step()
print(f"openai {openai.__version__}: all of it works")
