"""What the API asks of the playground's process, and what it is told: over a Unix socket.

One question a connection: a JSON object to `/generate`, answered by lines of JSON, each a `Told`,
as they come. The process knows no owners and no database: the paths were looked up for whoever
asks. Closing the connection ends the generation.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from finlora_core.errors import (
    FinLoRAError,
    InvalidRequest,
    KeyProblem,
    PlaygroundBusy,
    PlaygroundUnavailable,
)
from finlora_core.runs.config import PromptFormat

GENERATE = "/generate"

RETRY_AFTER = 5
"""Seconds, after a busy one."""

MAX_TOKENS = 4096
"""Of an answer at most; it has to fit into the model's context, too."""

MAX_PROMPT = 256 * 1024
"""Characters of all messages together."""


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Message(Shape):
    role: Literal["system", "user", "assistant"]
    content: str


class Model(Shape):
    """What has to be in memory."""

    base: Path
    adapter: Path | None = None
    quant_bits: Literal[4, 8] | None = None
    """In which the base was while the adapter was trained."""


class Question(Shape):
    model: Model
    prompt: str | tuple[Message, ...]
    """Messages for the chat template; else one text."""
    form: PromptFormat | None = None
    """What the text is to be put into; None for a text that is taken as it is."""
    max_tokens: int | None = None
    """None: the playground's default, or what fits if that is less."""
    temperature: float = 1
    """0: the likeliest token each time."""
    top_p: float = 1
    stop: tuple[str, ...] = ()
    seed: int | None = None

    @property
    def is_chat(self) -> bool:
        return not isinstance(self.prompt, str)

    @property
    def key(self) -> str:
        """What the prompt is called by whoever asked."""
        return "prompt" if self.form is None and not self.is_chat else "messages"


class Started(Shape):
    """The model is in memory and the prompt fits."""

    kind: Literal["started"] = "started"
    prompt_tokens: int


class Piece(Shape):
    kind: Literal["piece"] = "piece"
    text: str


class Ended(Shape):
    kind: Literal["ended"] = "ended"
    finish_reason: Literal["stop", "length"]
    completion_tokens: int


class Refused(Shape):
    """Instead of the others, or in their midst when something breaks."""

    kind: Literal["refused"] = "refused"
    why: Literal["busy", "unavailable", "invalid"]
    detail: str
    key: str = ""
    """Of the request, what is invalid: `max_tokens`, `prompt`."""

    def error(self) -> FinLoRAError:
        match self.why:
            case "busy":
                return PlaygroundBusy(self.detail, retry_after=RETRY_AFTER)
            case "unavailable":
                return PlaygroundUnavailable(self.detail)
            case "invalid":
                return InvalidRequest(KeyProblem(self.key, "invalid_value", self.detail))


Told = Started | Piece | Ended | Refused
told: TypeAdapter[Told] = TypeAdapter(Annotated[Told, Field(discriminator="kind")])


def bits_of(variant: str) -> Literal[4, 8] | None:
    """In which an adapter's base was trained: what `8bits_r8_dora` begins with."""
    return {"4bits": 4, "8bits": 8}.get(variant.partition("_")[0])  # type: ignore[return-value]
