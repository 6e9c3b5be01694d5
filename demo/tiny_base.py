"""Makes a tiny Llama and its tokenizer on the spot, so that the demo needs no download.

`python -m demo.tiny_base FOLDER [--pretrain-steps N]` writes a model of about a million
parameters that knows the language of the demo's news and the form of the answer, but not which
answer is right: it is pre-trained on sentences of the grammar's `base` split (companies, people
and numbers of its own) with labels drawn at random.
"""

import argparse
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from demo.grammar import Label, Split
from demo.make_data import Row, sentences

PRETRAIN_STEPS = 300
SEED = 17
BATCH_ROWS = 32
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 20
CORPUS_ROWS_PER_LABEL = 3000
VOCABULARY = 2048

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
EOT, START_HEADER, END_HEADER = "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"
SPECIAL_TOKENS = (BOS, EOS, PAD, START_HEADER, END_HEADER, EOT)

# The pre-tokenizer of Llama 3's tokenizer.json, which keeps every byte of the text.
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)

Report = Callable[[int, int, float], None]
"""Is told of a finished step: its number from 1, the number of steps, the loss (nats a token)."""


def build_tiny_base(
    folder: Path,
    *,
    pretrain_steps: int = PRETRAIN_STEPS,
    seed: int = SEED,
    report: Report | None = None,
) -> None:
    """Writes config, weights (safetensors) and tokenizer into the folder, made if need be.

    The same seed and steps give the same bytes on one machine with one number of threads; the
    global random state of torch is left as it was. No steps take a few seconds, the default
    number less than a minute on two cores.
    """
    rows = random_answers(seed)
    tokenizer = make_tokenizer(rows)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_model(tokenizer)
        pretrain(model, tokenizer, rows, steps=pretrain_steps, report=report)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def random_answers(seed: int) -> list[Row]:
    """Rows in the demo's form whose targets were drawn without a look at the sentence."""
    rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
    sources = [sentences(label, Split.BASE, rng) for label in Label]
    texts = [next(source) for source in sources for _ in range(CORPUS_ROWS_PER_LABEL)]
    rng.shuffle(texts)
    return [Row.of(text, rng.choice(list(Label))) for text in texts]


def make_tokenizer(rows: list[Row]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of Llama 3's kind, learnt from the rows; decoding gives the text back."""
    core = Tokenizer(models.BPE(ignore_merges=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator((text for row in rows for text in texts_of(row)), _trainer())
    core.post_processor = _starts_with_bos(core)
    return _wrapped(core)


def _trainer() -> trainers.BpeTrainer:
    return trainers.BpeTrainer(  # type: ignore[no-untyped-call]  # its stub has no types
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def _starts_with_bos(core: Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS} $B:1",
        special_tokens=[(BOS, core.token_to_id(BOS))],
    )


def _wrapped(core: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[START_HEADER, END_HEADER, EOT],
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
        chat_template=CHAT_TEMPLATE,
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """An untrained Llama; every linear layer's sides are multiples of 64.

    64 is the block size of bitsandbytes' 4-bit layers.
    """
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def texts_of(row: Row) -> tuple[str, str]:
    """Prompt and answer, the two texts that Axolotl tokenizes apart: the answer without BOS, and
    no space comes between. A context ends in "Answer: ", so two spaces stand before "[/INST]"."""
    return f"[INST] {row.context} [/INST]", str(row.target)


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Row],
    *,
    steps: int,
    report: Report | None = None,
) -> None:
    """Trains all weights on the next token of whole rows, prompt and answer, on the CPU."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _pace(step, steps))
    batches = _batches([encode(tokenizer, row) for row in rows[: steps * BATCH_ROWS]])
    model.train()
    for step in range(1, steps + 1):
        loss = model(**next(batches)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if report is not None:
            report(step, steps, loss.item())
    model.eval()


def _pace(step: int, steps: int) -> float:
    """The share of the peak learning rate: a linear warm-up, then half a cosine to zero."""
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    return warmup * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))


def encode(tokenizer: PreTrainedTokenizerFast, row: Row) -> torch.Tensor:
    """A row as Axolotl trains on it: BOS, prompt, answer, EOS; shape (tokens,)."""
    prompt, answer = texts_of(row)
    ids = tokenizer.encode(prompt) + tokenizer.encode(answer, add_special_tokens=False)
    return torch.tensor([*ids, tokenizer.eos_token_id])


def _batches(encoded: list[torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of BATCH_ROWS rows in turn, without end, in the rows' order."""
    start = 0
    while True:
        chosen = [encoded[(start + i) % len(encoded)] for i in range(BATCH_ROWS)]
        yield _collate(chosen)
        start += BATCH_ROWS


def _collate(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows padded on the right to the longest; each tensor's shape is (rows, tokens)."""
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-100)
    mask = padded != -100
    return {"input_ids": padded.clamp(min=0), "attention_mask": mask.long(), "labels": padded}


def _print_progress(step: int, steps: int, loss: float) -> None:
    if step % 10 == 0 or step == steps:
        end = "\n" if step == steps else ""
        print(f"\rpre-training: step {step} of {steps}, loss {loss:.3f}", end=end, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.tiny_base", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pretrain-steps", type=int, default=PRETRAIN_STEPS)
    parser.add_argument("--seed", type=int, default=SEED)
    wanted = parser.parse_args()
    build_tiny_base(
        wanted.folder,
        pretrain_steps=wanted.pretrain_steps,
        seed=wanted.seed,
        report=_print_progress,
    )


if __name__ == "__main__":
    main()
