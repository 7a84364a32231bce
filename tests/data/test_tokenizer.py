import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from est_cli.common.errors import ConfigError, DataError
from est_cli.data.text import hub
from est_cli.data.text.pieces import TextSource
from est_cli.data.text.sources import open_sources
from est_cli.data.tokens import tokenizer as module
from est_cli.data.tokens.tokenizer import END_OF_TEXT, load_tokenizer, token_count, tokenizer_digest
from tests.lab.corpora import documents, files, write_jsonl


@pytest.fixture
def sources(tmp_path: Path) -> list[TextSource]:
    return open_sources(files(write_jsonl(tmp_path / "a.jsonl", documents(40))), tmp_path)


def test_bpe_is_trained_once(tmp_path: Path, sources: list[TextSource], monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_tokenizer("bpe", 300, sources, 0.1, tmp_path)
    monkeypatch.setattr(module, "_train", None)
    again = load_tokenizer("bpe", 300, sources, 0.1, tmp_path)
    assert tokenizer_digest(first) == tokenizer_digest(again)
    assert token_count(first) == len(first) == 300
    assert first.eos_token == first.bos_token == END_OF_TEXT
    assert first.eos_token_id == 0
    text = "früh 東京 \x00 🦊 never seen\n"
    assert first.decode(first.encode(text)) == text


def test_bpe_depends_on_size_and_on_the_training_documents(tmp_path: Path, sources: list[TextSource]) -> None:
    digests = {tokenizer_digest(load_tokenizer("bpe", size, sources, 0.1, tmp_path)) for size in (300, 310)}
    digests.add(tokenizer_digest(load_tokenizer("bpe", 300, sources, 0.9, tmp_path)))
    assert len(digests) == 3


def test_bpe_is_trained_on_the_start_of_a_large_corpus(
    sources: list[TextSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRAINING_CHARACTERS", 1000)
    assert sum(map(len, module._training_text(sources, 0.0, ()))) == 1000


def test_bpe_is_trained_on_the_sources_by_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRAINING_CHARACTERS", 3000)
    for name in "ab":
        write_jsonl(tmp_path / f"{name}.jsonl", [name * 100] * (40 if name == "a" else 5))
    mixed = files(tmp_path / "a.jsonl", tmp_path / "b.jsonl", weights=[2.0, 1.0])
    text = "".join(module._training_text(open_sources(mixed, tmp_path), 0.0, [2.0, 1.0]))
    assert (text.count("a"), text.count("b")) == (2000, 500), "of a small source all that it has"


def test_held_out_documents_do_not_train_the_bpe(sources: list[TextSource]) -> None:
    everything = list(module._training_text(sources, 0.0, ()))
    trained_on = list(module._training_text(sources, 0.5, ()))
    assert 5 < len(trained_on) < 35
    assert set(trained_on) < set(everything)


def test_fewer_tokens_than_the_model_has_is_one_line(
    tmp_path: Path, sources: list[TextSource], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        count = token_count(load_tokenizer("bpe", 5000, sources, 0.1, tmp_path))
    assert 257 < count < 5000
    assert f"tokenizer bpe has {count} tokens, fewer than the model's 5000" in caplog.text


def test_folder_of_more_tokens_is_refused(tmp_path: Path, sources: list[TextSource]) -> None:
    load_tokenizer("bpe", 300, sources, 0.1, tmp_path).save_pretrained(tmp_path / "saved")
    saved = str(tmp_path / "saved")
    assert token_count(load_tokenizer(saved, 300, (), 0.0, tmp_path)) == 300
    with pytest.raises(ConfigError, match=r"^tokenizer: .*saved' has 300 tokens, the model only 299"):
        load_tokenizer(saved, 299, (), 0.0, tmp_path)


def test_no_end_of_text_is_refused(tmp_path: Path) -> None:
    plain = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=plain).save_pretrained(tmp_path / "plain")
    with pytest.raises(DataError, match=r"^tokenizer: .*plain' has no end-of-text token"):
        load_tokenizer(str(tmp_path / "plain"), 300, (), 0.0, tmp_path)


@pytest.mark.parametrize("content", [{}, {"tokenizer.json": "{"}, {"tokenizer.json": '{"model": 3}'}])
def test_folder_without_a_tokenizer_is_refused(tmp_path: Path, content: dict[str, str]) -> None:
    (tmp_path / "folder").mkdir()
    for name, text in content.items():
        (tmp_path / "folder" / name).write_text(text)
    with pytest.raises(DataError, match=r"^tokenizer: .*folder' holds no tokenizer") as caught:
        load_tokenizer(str(tmp_path / "folder"), 300, (), 0.0, tmp_path)
    assert "\n" not in str(caught.value)


def test_code_in_a_tokenizer_folder_is_never_run(tmp_path: Path, sources: list[TextSource]) -> None:
    folder = tmp_path / "folder"
    load_tokenizer("bpe", 300, sources, 0.1, tmp_path).save_pretrained(folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\nclass Evil: ...\n")
    config = '{"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}'
    (folder / "tokenizer_config.json").write_text(config)
    with pytest.raises(DataError):
        load_tokenizer(str(folder), 300, (), 0.0, tmp_path)
    assert not (tmp_path / "canary").exists()


def test_name_of_the_hub_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        DataError, match=r"^tokenizer: there is no folder .* 'no-such/tokenizer' cannot be fetched, .* give its folder"
    ):
        load_tokenizer("no-such/tokenizer", 300, (), 0.0, tmp_path)
    with pytest.raises(DataError, match=r"^tokenizer: there is no folder /no/such/folder"):
        load_tokenizer("/no/such/folder", 300, (), 0.0, tmp_path)


def test_bpe_needs_text_and_room_for_all_bytes(tmp_path: Path, sources: list[TextSource]) -> None:
    with pytest.raises(ConfigError, match=r"^tokenizer: bpe cannot be trained on token ids"):
        load_tokenizer("bpe", 300, (), 0.0, tmp_path)
    with pytest.raises(
        ConfigError, match=r"^model.vocab_size: is 256; a byte-level BPE needs at least model\.vocab_size=257"
    ):
        load_tokenizer("bpe", 256, sources, 0.0, tmp_path)
