"""What OpenAI's clients ask of a model -> a question to the playground. Pure.

A closed set of parameters: what is not here is refused by its name, and does not go unnoticed.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.openai.served import Served
from finlora_core.errors import InvalidRequest, KeyProblem
from finlora_core.playground import MAX_PROMPT, MAX_TOKENS, Message, Question
from finlora_core.runs.config import PromptFormat

COMPLETION_TOKENS = 16
"""Of a raw completion where nobody says, as OpenAI has it."""

SEEDS = 2**63

Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS, strict=True)]
Text = Annotated[str, Field(max_length=MAX_PROMPT)]
Stop = Annotated[str, Field(min_length=1, max_length=64)]


class Closed(BaseModel):
    model_config = ConfigDict(extra="forbid")


class TextPart(Closed):
    type: Literal["text"]
    text: Text


class ChatMessage(Closed):
    role: Literal["system", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=64)] = Field(
        examples=["Profit rose."]
    )

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(Closed):
    include_usage: bool | None = Field(None, description="One more chunk, with the usage.")


class Sampling(Closed):
    model: str = Field(
        min_length=1,
        max_length=512,
        description="As GET /v1/models lists it; or an adapter's id, `adp_…`.",
    )
    max_tokens: Tokens | None = Field(None, description="Of the answer, at most.")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="0: the likeliest token each time. Default: 1."
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(
        None,
        description="Of the probability; the likeliest tokens that make it up are drawn from.",
    )
    n: Literal[1] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="The answer ends before the first of these.", examples=["\n"]
    )
    seed: Annotated[int, Field(ge=-SEEDS, lt=SEEDS, strict=True)] | None = Field(
        None, description="The same seed, the same answer on the same machine."
    )
    stream: bool | None = Field(None, description="Server-sent events, piece by piece.")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Ignored.", examples=["ann"])
    metadata: dict[str, Any] | None = Field(None, description="Ignored.")
    store: bool | None = Field(None, description="Ignored: no answer is stored.")

    @property
    def shows_usage(self) -> bool:
        """As one more chunk of a stream."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self) -> dict[str, Any]:
        stop = self.stop or []
        return {
            "temperature": 1 if self.temperature is None else self.temperature,
            "top_p": 1 if self.top_p is None else self.top_p,
            "stop": (stop,) if isinstance(stop, str) else tuple(stop),
            "seed": self.seed,
        }


class ChatRequest(Sampling):
    messages: list[ChatMessage] = Field(min_length=1, max_length=256)
    max_completion_tokens: Tokens | None = Field(
        None, description="OpenAI's newer name for `max_tokens`; it wins."
    )


class CompletionRequest(Sampling):
    prompt: Text = Field(
        description="Given to the model as it is.", examples=["[INST] Profit rose. [/INST]"]
    )


def to_chat_question(request: ChatRequest, served: Served) -> Question:
    """Put as the adapter's own rows were. Raises `InvalidRequest`."""
    _require_size(request.messages)
    return Question(
        model=served.model,
        **_chat_prompt(request.messages, served.form),
        max_tokens=request.max_completion_tokens or request.max_tokens,
        **request.sampling(),
    )


def to_question(request: CompletionRequest, served: Served) -> Question:
    return Question(
        model=served.model,
        prompt=request.prompt,
        max_tokens=request.max_tokens or COMPLETION_TOKENS,
        **request.sampling(),
    )


def _chat_prompt(messages: list[ChatMessage], form: PromptFormat | None) -> dict[str, Any]:
    match form:
        case PromptFormat.CHAT:
            return {"prompt": tuple(Message(role=m.role, content=m.text) for m in messages)}
        case None:
            raise _unfit(
                "the adapter was made elsewhere, and nothing says which prompts it was trained "
                "on; send the whole prompt to /v1/completions"
            )
        case _ if [message.role for message in messages] != ["user"]:
            raise _unfit(
                f"the adapter was trained on single instructions (prompt_format {form.value!r}): "
                "send one message of the user's"
            )
        case _:
            return {"prompt": messages[0].text, "form": form}


def _require_size(messages: list[ChatMessage]) -> None:
    if sum(len(message.text) for message in messages) > MAX_PROMPT:
        raise _unfit(f"should have at most {MAX_PROMPT} characters together")


def _unfit(message: str) -> InvalidRequest:
    return InvalidRequest(KeyProblem("messages", "invalid_value", message))
