"""BERTScore, on a tiny BERT made on the spot."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from worker.bert_score import LAYERS, Scorer, bert_scores, find_scorer

MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*MARKS, "amount", "of", "new", "long", "debt", "total", "net", "cash", "税"]
LONGEST = 12
OUTPUTS = ["cash of debt net new total", "net", "amount new", "total net debt", "税 cash"]
TARGETS = ["cash", "net amount of cash", "amount long new total debt", "net debt", "税"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    root = tmp_path_factory.mktemp("models")
    name = next(iter(LAYERS))
    make_tiny_bert(root / name)
    found = find_scorer([root])
    assert found is not None
    assert (found.name, found.folder) == (name, (root / name).resolve())
    return Scorer(found.name, found.folder, layer=1)


def make_tiny_bert(folder: Path, layers: int = 2) -> None:
    numbers = {word: number for number, word in enumerate(WORDS)}
    core = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(mark, numbers[mark]) for mark in ("[CLS]", "[SEP]")],
    )
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    PreTrainedTokenizerFast(
        tokenizer_object=core, **marks, sep_token="[SEP]", model_max_length=LONGEST
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=LONGEST,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)


def by_hand(scorer: Scorer, output: str, target: str) -> float:
    """The mean of each token's nearest on the other side, both ways. None is less than 0, as
    torchmetrics has it; an untrained model has such cosines, a real one has none."""
    nearness = (embedded(scorer, output) @ embedded(scorer, target).T).clamp(min=0)
    precision, recall = nearness.max(dim=1).values.mean(), nearness.max(dim=0).values.mean()
    return float(2 * precision * recall / (precision + recall))


def embedded(scorer: Scorer, text: str) -> torch.Tensor:
    """(tokens, hidden), of length 1 each, without the marks at both ends."""
    tokens = AutoTokenizer.from_pretrained(scorer.folder)(
        text, return_tensors="pt", truncation=True
    )
    model = AutoModel.from_pretrained(scorer.folder).eval()
    with torch.no_grad():
        states = model(**tokens, output_hidden_states=True).hidden_states
    layer = states[scorer.layer][0, 1:-1]
    return torch.nn.functional.normalize(layer, dim=-1)


def test_each_output_is_compared_with_its_own_target(scorer: Scorer) -> None:
    expected = [by_hand(scorer, *pair) for pair in zip(OUTPUTS, TARGETS, strict=True)]
    assert bert_scores(scorer, OUTPUTS, TARGETS) == pytest.approx(expected, abs=1e-5)
    turned = bert_scores(scorer, OUTPUTS[::-1], TARGETS[::-1])
    assert turned == pytest.approx(expected[::-1], abs=1e-5)


def test_a_text_equals_itself_and_a_blank_one_nothing(scorer: Scorer) -> None:
    assert bert_scores(scorer, ["net cash", "", "cash"], ["net cash", "cash", " "]) == [
        pytest.approx(1, abs=1e-5),
        0,
        0,
    ]


def test_a_long_text_is_cut_off(scorer: Scorer) -> None:
    long = "net cash " * LONGEST
    assert bert_scores(scorer, [long], ["net cash"]) == [
        pytest.approx(by_hand(scorer, long, "net cash"), abs=1e-5)
    ]


def test_no_rows_have_no_scores(scorer: Scorer) -> None:
    assert bert_scores(scorer, [], []) == []


def test_without_a_model_at_hand_there_is_no_scorer(tmp_path: Path) -> None:
    assert find_scorer([tmp_path, tmp_path / "missing"]) is None
