"""A base model with its adapter in memory, and what it answers. All that needs torch."""

import gc
from collections.abc import Callable, Sequence
from threading import Event
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from finlora_core.datasets.rows import PROMPT
from finlora_core.playground import MAX_TOKENS, Ended, Model, Question
from finlora_core.runs.config import PromptFormat
from finlora_core.training.axolotl import Hardware
from worker.loading import Prompts, alpaca, load_base, load_tokenizer

DEFAULT_TOKENS = 256
"""Of an answer where nobody says."""

UNFINISHED = "\ufffd"
"""What decoding gives for a character of which bytes are missing yet."""


class Unanswerable(Exception):
    """The question cannot be put to this model; `key` is the part of it to blame."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


class Loaded:
    """Raises what transformers, PEFT and torch raise when the files are not sound."""

    def __init__(self, wanted: Model, hardware: Hardware) -> None:
        self.wanted = wanted
        self._device = torch.device(hardware.value)
        self.tokenizer = load_tokenizer(wanted.base, wanted.adapter)
        self._prompts = Prompts(self.tokenizer)
        base = load_base(wanted.base, wanted.quant_bits, hardware)
        adapter = wanted.adapter
        self._model = PeftModel.from_pretrained(base, adapter).eval() if adapter else base
        self._context: int = self._model.config.get_text_config().max_position_embeddings

    def encode(self, question: Question) -> list[int]:
        """The prompt as it was trained on. Raises `Unanswerable`."""
        ids = self._chat(question) if question.is_chat else self._text(question)
        if not ids:
            raise Unanswerable(question.key, "there is not one token in it")
        room = self._context - len(ids)
        wanted = question.max_tokens or 1
        if room < wanted:
            raise Unanswerable(
                question.key if room < 1 else "max_tokens",
                f"the prompt has {len(ids)} tokens, and with {wanted} more they do not fit into "
                f"the model's context of {self._context}",
            )
        return ids

    def _text(self, question: Question) -> list[int]:
        text = str(question.prompt)
        match question.form:
            case PromptFormat.INSTRUCTION:
                text = PROMPT.format(instruction=text)
            case PromptFormat.ALPACA:
                text = alpaca(text)
        return self._prompts.of_text(text)

    def _chat(self, question: Question) -> list[int]:
        if not self.tokenizer.chat_template:
            raise Unanswerable(
                "messages", "the model has no chat template; send its prompt to /v1/completions"
            )
        messages = question.model_dump()["prompt"]
        try:
            return self._prompts.of_chat(messages)
        except Exception as error:  # templates refuse what they like, in their own words
            raise Unanswerable(
                "messages", f"the model's chat template refuses them: {error}"
            ) from None

    def answer(
        self, question: Question, ids: list[int], tell: Callable[[str], None], gone: Event
    ) -> Ended:
        """Tells the text piece by piece; stops soon after `gone` is set."""
        asked = question.max_tokens or DEFAULT_TOKENS
        teller = Teller(self.tokenizer, question.stop, tell)
        config = self._sampling(question, min(asked, MAX_TOKENS, self._context - len(ids)))
        prompt = torch.tensor([ids], device=self._device)
        if question.seed is None:
            torch.seed()
        else:
            torch.manual_seed(question.seed)
        with torch.inference_mode():
            self._model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=config,
                streamer=teller,
                stopping_criteria=StoppingCriteriaList(
                    [Until(lambda: teller.full or gone.is_set())]
                ),
            )
        ended = teller.full or (teller.ids[-1:] and teller.ids[-1] in config.eos_token_id)
        return Ended(
            finish_reason="stop" if ended else "length", completion_tokens=len(teller.ids)
        )

    def _sampling(self, question: Question, tokens: int) -> GenerationConfig:
        """All of it said: what is not would come from the base model's generation_config.json."""
        samples = question.temperature > 0
        drawn = {"temperature": question.temperature, "top_p": question.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=tokens,
            do_sample=samples,
            **(drawn if samples else {}),
            eos_token_id=self.ends_of(question),
            pad_token_id=self._prompts.padding,
        )

    def ends_of(self, question: Question) -> list[int]:
        """The tokens that end an answer."""
        return self._prompts.ends(self._model, is_chat=question.is_chat)


class Teller(BaseStreamer):  # type: ignore[misc]
    """Tells the text of the new tokens, but nothing from a stop string on."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], tell: Callable[[str], None]) -> None:
        self.ids: list[int] = []
        self.full = False
        """A stop string has come."""
        self._tokenizer = tokenizer
        self._stop = stop
        self._tell = tell
        self._told = 0
        self._is_prompt = True

    def put(self, value: Any) -> None:
        """First the prompt, then each token."""
        if self._is_prompt:
            self._is_prompt = False
            return
        self.ids.extend(value.flatten().tolist())
        text = self._text()
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if places:
            self.full = True
            self._tell_up_to(text, min(places))
        else:
            self._tell_up_to(text, len(text) - self._held_back(text))

    def end(self) -> None:
        if not self.full:
            self._tell_up_to(text := self._text(), len(text))

    def _text(self) -> str:
        text: str = self._tokenizer.decode(
            self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _held_back(self, text: str) -> int:
        """Characters at the end that may change yet, or begin a stop string."""
        if text.endswith(UNFINISHED):
            return len(text) - len(text.rstrip(UNFINISHED))
        longest = max(map(len, self._stop), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((n for n in sizes if any(s.startswith(text[-n:]) for s in self._stop)), 0)

    def _tell_up_to(self, text: str, end: int) -> None:
        if end > self._told:
            self._tell(text[self._told : end])
            self._told = end


class Until(StoppingCriteria):  # type: ignore[misc]
    def __init__(self, is_over: Callable[[], bool]) -> None:
        self._is_over = is_over

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.full((len(input_ids),), self._is_over(), device=input_ids.device)


def free_memory() -> None:
    """After the last reference to a model is gone. What CUDA itself takes stays."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
