"""What OpenAI's clients are answered: a chat's turn or a raw continuation, whole or in chunks."""

import time
import uuid
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

FinishReason = Literal["stop", "length"]


class Usage(BaseModel):
    """In tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str = Field(examples=["positive"])
    refusal: None = None


class ChatChoice(BaseModel):
    index: Literal[0] = 0
    message: AssistantMessage
    logprobs: None = None
    finish_reason: FinishReason = Field(description="`length`: max_tokens have ended it.")


class ChatCompletion(BaseModel):
    id: str = Field(examples=["chatcmpl-8f0c1d0c4a8b4e2f9d11"])
    object: Literal["chat.completion"] = "chat.completion"
    created: int = Field(description="Unix seconds.")
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextChoice(BaseModel):
    index: Literal[0] = 0
    text: str = Field(examples=["positive"])
    logprobs: None = None
    finish_reason: FinishReason = Field(description="`length`: max_tokens have ended it.")


class TextCompletion(BaseModel):
    id: str = Field(examples=["cmpl-8f0c1d0c4a8b4e2f9d11"])
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Unix seconds.")
    model: str
    choices: list[TextChoice]
    usage: Usage


class TextWording:
    """How a raw continuation is put. One of it for each answer."""

    prefix: ClassVar[str] = "cmpl-"
    object: ClassVar[str] = "text_completion"

    def __init__(self, model: str) -> None:
        self.head: dict[str, Any] = {
            "id": f"{self.prefix}{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finish: FinishReason, usage: Usage) -> BaseModel:
        choice = TextChoice(text=text, finish_reason=finish)
        return TextCompletion(**self.head, choices=[choice], usage=usage)

    def first(self) -> dict[str, Any] | None:
        """A chunk before there is any text."""
        return None

    def piece(self, text: str, finish: FinishReason | None = None) -> dict[str, Any]:
        return self.chunk({"text": text}, finish)

    def end(self, finish: FinishReason) -> dict[str, Any]:
        return self.piece("", finish)

    def usage(self, usage: Usage) -> dict[str, Any]:
        """A chunk without a choice."""
        return {**self.head, "object": self.object, "choices": [], "usage": usage.model_dump()}

    def chunk(self, said: dict[str, Any], finish: FinishReason | None) -> dict[str, Any]:
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": finish}
        return {**self.head, "object": self.object, "choices": [choice], "usage": None}


class ChatWording(TextWording):
    """How a chat's turn is put."""

    prefix = "chatcmpl-"
    object = "chat.completion.chunk"

    def whole(self, text: str, finish: FinishReason, usage: Usage) -> BaseModel:
        choice = ChatChoice(message=AssistantMessage(content=text), finish_reason=finish)
        return ChatCompletion(**self.head, choices=[choice], usage=usage)

    def first(self) -> dict[str, Any]:
        return self.chunk({"delta": {"role": "assistant", "content": ""}}, None)

    def piece(self, text: str, finish: FinishReason | None = None) -> dict[str, Any]:
        return self.chunk({"delta": {"content": text}}, finish)

    def end(self, finish: FinishReason) -> dict[str, Any]:
        return self.chunk({"delta": {}}, finish)
