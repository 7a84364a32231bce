"""Checkpoints as classifiers: which token decides, what the head is, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from est_cli.common.errors import CheckpointError, ConfigError
from est_cli.evaluation.classifier import collate, load_classifier, logits_of
from est_cli.models.pretrained import Checkpoint, load_language_model, max_tokens, open_checkpoint
from tests.lab.small_models import POSITIONS, byte_tokenizer, save

CPU = torch.device("cpu")


def opened(folder: Path) -> Checkpoint:
    return open_checkpoint("checkpoint", str(folder))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_last_token_of_the_text_decides_whatever_fills_the_batch(tmp_path: Path, family: str) -> None:
    checkpoint = opened(save(tmp_path, family))
    model = load_classifier(checkpoint, 3, seed=0, dropout=None).eval()
    end = checkpoint.tokenizer.eos_token_id
    assert checkpoint.pad_id == end, "the case that must work: the id that pads also stands in texts"
    texts = [[5, 9, end], [5, end, 9], [7, 8, 9, 10, 11], [end]]
    with torch.no_grad():
        together = logits_of(model, collate([{"input_ids": ids} for ids in texts], checkpoint.pad_id, CPU))
        alone = [model.score(model.base_model(torch.tensor([ids])).last_hidden_state[:, -1]) for ids in texts]
    torch.testing.assert_close(together, torch.cat(alone))
    assert (together[0] - together[1]).abs().max() > 1e-4


def test_an_encoder_does_not_see_what_fills_the_batch(tmp_path: Path) -> None:
    checkpoint = opened(save(tmp_path, "bert"))
    model = load_classifier(checkpoint, 2, seed=0, dropout=None).eval()
    rows = [
        {"input_ids": [2, 8, 3], "token_type_ids": [0, 0, 0]},
        {"input_ids": [2, 8, 9, 3], "token_type_ids": [0] * 4},
    ]
    with torch.no_grad():
        together = logits_of(model, collate(rows, checkpoint.pad_id, CPU))
        alone = torch.cat([logits_of(model, collate([row], 0, CPU)) for row in rows])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_the_head_is_new_and_decided_by_the_seed(tmp_path: Path, family: str) -> None:
    checkpoint = opened(save(tmp_path / "a", family))
    models = [load_classifier(checkpoint, 3, seed, dropout=None) for seed in (0, 0, 1)]
    head = "classifier.weight" if family == "bert" else "score.weight"
    first, again, other = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], again[name]) for name in first)
    differ = {name for name in first if not torch.equal(first[name], other[name])}
    assert head in differ and all("pooler" in name for name in differ - {head})
    models[0].save_pretrained(tmp_path / "b")  # as fine-tuned before
    checkpoint.tokenizer.save_pretrained(tmp_path / "b")
    assert torch.equal(load_classifier(opened(tmp_path / "b"), 3, 1, None).state_dict()[head], other[head])


def test_dropout_is_the_checkpoints_own_unless_it_is_given(tmp_path: Path) -> None:
    for family, key in (("gpt2", "attn_pdrop"), ("llama", "attention_dropout"), ("bert", "hidden_dropout_prob")):
        checkpoint = opened(save(tmp_path / family, family, **{key: 0.25}))
        assert getattr(load_classifier(checkpoint, 2, 0, None).config, key) == 0.25
        assert getattr(load_classifier(checkpoint, 2, 0, 0.5).config, key) == 0.5
        assert getattr(load_classifier(checkpoint, 2, 0, 0.0).config, key) == 0.0


def test_how_long_a_text_may_be(tmp_path: Path) -> None:
    checkpoint = opened(save(tmp_path))
    assert [max_tokens(checkpoint, asked) for asked in (None, 10, 1000)] == [POSITIONS, 10, POSITIONS]


def test_a_run_stands_for_its_final_model_and_the_name_tells_the_weights(tmp_path: Path) -> None:
    save(tmp_path / "run" / "model", seed=0)
    first = opened(tmp_path / "run")
    assert first.name == opened(tmp_path / "run" / "model").name
    save(tmp_path / "run" / "model", seed=1)
    assert opened(tmp_path / "run").name != first.name
    assert first.name.startswith(f"{tmp_path}/run/model@")


def test_checkpoints_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^baseline: there is no folder \./nowhere"):
        open_checkpoint("baseline", "./nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: holds no config\.json"):
        opened(tmp_path / "empty")
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    with pytest.raises(CheckpointError, match=r"run: is an unfinished run and has no final model; there is no check"):
        opened(run)
    for step in ("step-000005", "step-000040"):
        save(run / "checkpoints" / step)
    with pytest.raises(CheckpointError, match=r"give a checkpoint of it, such as .*/run/checkpoints/step-000040$"):
        opened(run)
    without = save(tmp_path / "without", tokenizer=False)
    with pytest.raises(CheckpointError, match=r"without: holds no tokenizer; save the one .*save_pretrained"):
        opened(without)
    coded = save(tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text())
    for key in ("auto_map", "quantization_config"):
        (coded / "config.json").write_text(json.dumps({**config, key: {"AutoConfig": "code.Config"}}))
        with pytest.raises(CheckpointError, match=rf"coded: would choose code to run \({key} in config\.json\)"):
            opened(coded)


def test_weights_that_are_missing_damaged_or_of_another_kind(tmp_path: Path) -> None:
    smaller = save(tmp_path / "smaller", n_layer=1)
    config = json.loads((smaller / "config.json").read_text())
    (smaller / "config.json").write_text(json.dumps({**config, "n_layer": 2}))
    with pytest.raises(CheckpointError, match=r"smaller: \d+ weights are missing or have another shape"):
        load_classifier(opened(smaller), 2, 0, None)
    (smaller / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match=r"smaller: cannot be loaded: "):
        load_language_model(opened(smaller))
    (smaller / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"smaller: its tokenizer cannot be loaded"):
        opened(smaller)
    byte_tokenizer().save_pretrained(smaller)
    (smaller / "MANIFEST.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"MANIFEST\.json"):
        opened(smaller)
