"""An errand of the worker's done as FinLoRA's test scripts do it: see benchmarks/evaluation.py.

FinLoRA's test/test.py and test/inference.py load base model, tokenizer and adapter for each task,
and ask one row at a time. What is not as there: the prompts are those of the errand, whole
precision and no sampling, and only the new tokens are read.
"""

import os
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles
from worker.errand import Answer, Errand


def main() -> None:
    files = AttemptFiles(Path(os.environ[ATTEMPT_DIR]))
    errand = Errand.model_validate_json(files.errand.read_text())
    with files.answers.open("w") as answers, torch.no_grad():
        for number, asked in enumerate(errand.models):
            for place, questions in enumerate(errand.sets):
                model, tokenizer = load(errand.base, asked.adapter)
                for row, given in enumerate(questions.given):
                    text = ask(model, tokenizer, given[0][1], questions.max_new_tokens)
                    answer = Answer(model=number, set=place, row=row, text=text)
                    answers.write(f"{answer.model_dump_json()}\n")


def load(base: Path, adapter: Path | None) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    model = model.eval()
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def ask(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int) -> str:
    tokens = tokenizer([prompt], return_tensors="pt", padding=True, return_token_type_ids=False)
    made = model.generate(
        **tokens,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        do_sample=False,
    )
    new = made[0][tokens["input_ids"].shape[1] :]
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    return text


if __name__ == "__main__":
    main()
