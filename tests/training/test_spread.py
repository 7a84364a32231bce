"""draw_spread: against draws that are run one by one in plain transformers, and in a model whose heads cancel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import pstdev

import pytest
import torch
from transformers import AutoModelForCausalLM

from est_cli.common.errors import ConfigError
from est_cli.config import (
    DatasetConfig,
    ModelConfig,
    RunConfig,
    Source,
    StageConfig,
    TrackingConfig,
    TrainConfig,
    WandbMode,
)
from est_cli.config.resolve import check
from est_cli.est import IndexGenerator, SamplingRates, apply_est
from est_cli.est.hashing import hash_numbers
from est_cli.families import spec_of
from est_cli.tracking import read_metrics
from est_cli.training import train
from est_cli.training.build import build
from est_cli.training.run import Run
from est_cli.training.spread import SPREAD, draw_spread
from est_cli.training.start import Start
from tests.lab.commands import accepted
from tests.lab.lab import write_corpus

pytestmark = pytest.mark.slow

SEQ_LEN, DRAWS = 16, 5
HALF = SamplingRates(0.5, 0.5, 0.5)


def config_in(folder: Path, draws: int = DRAWS) -> RunConfig:
    """Stages of 2 steps each; 3 sequences of each draw are read."""
    config = RunConfig(
        run_name="a",
        seed=3,
        model=ModelConfig("gpt2", "gpt2", 300, 16, 2, 4, max_positions=SEQ_LEN),
        dataset=DatasetConfig("text", Source.files, [str(write_corpus(folder / "corpus.jsonl"))], num_workers=1),
        stage=StageConfig(2, 4, 0.5, 0.5, 0.5),
        train=TrainConfig(max_steps=6, seq_len=SEQ_LEN, tokens_per_step=2 * SEQ_LEN, micro_batch=2, eval_every=1),
        tracking=TrackingConfig(wandb=WandbMode.off),
    )
    config.train.spread_draws, config.train.spread_tokens = draws, 3 * SEQ_LEN + 1
    config.dataset.validation_fraction = 0.3
    check(config)
    return config


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    with build(Start.of(config_in(tmp_path), None)) as run:
        yield run


def by_hand(run: Run, checkpoint: Path, step: int, rates: SamplingRates) -> list[float]:
    """The loss of each draw as transformers computes it."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    spec = spec_of(model)
    handle = apply_est(model, spec)
    generator = IndexGenerator(spec, hash_numbers((3, SPREAD, step)))
    tokens = run.validation_blocks.take(range(3))
    losses = []
    for number in range(DRAWS):
        handle.activate(generator.draw(number, rates))
        with torch.no_grad():
            losses.append(model(input_ids=tokens, labels=tokens).loss.item())
    return losses


def test_it_is_the_deviation_and_the_range_of_the_losses_of_the_draws(run: Run) -> None:
    train.train(run)
    records = [record for record in read_metrics(run.dir.metrics) if "val_loss" in record]
    assert [record["step"] for record in records if "draw_spread" in record] == [1, 2, 3, 4]
    for step, rates in ((2, HALF), (4, SamplingRates(0.5, 0.5, 1.0))):  # kept where the next stage begins
        losses = by_hand(run, run.dir.checkpoints / f"step-{step:06d}", step, rates)
        assert records[step - 1]["draw_spread"] == pytest.approx(pstdev(losses), rel=1e-3)
        assert records[step - 1]["draw_range"] == pytest.approx(max(losses) - min(losses), rel=1e-3)
    stages = json.loads(run.dir.summary.read_text())["stages"]
    spreads = [record.get("draw_spread") for record in records]
    assert [stage["draw_spread"] for stage in stages] == [max(spreads[:2]), max(spreads[2:4]), None]


def test_heads_that_cancel_each_other_are_seen_by_the_draws_alone(run: Run) -> None:
    """Heads 0 and 2 of the first layer write the same large vector, one of them with the sign turned."""
    run.state.step = 1
    with torch.no_grad():
        run.model.transformer.wte.weight.mul_(20.0)  # an untrained LM head would not show what it is given
    before, complete = draw_spread(run), train.evaluate(run)
    attention, width = run.model.transformer.h[0].attn, 4
    with torch.no_grad():
        value = attention.c_attn.weight.view(16, 3, 16)[:, 2]
        value[:, 8:12] = value[:, :4]
        attention.c_attn.bias.view(3, 16)[2, [*range(width), *range(8, 12)]] = 1.0
        large = 3.0 * torch.randn(width, 16, generator=torch.Generator().manual_seed(0))
        attention.c_proj.weight[:width], attention.c_proj.weight[8:12] = large, -large
    after = draw_spread(run)
    assert train.evaluate(run) == pytest.approx(complete, abs=0.01)
    assert all(after[key] > 20 * before[key] for key in before)


def test_other_seeds_and_steps_compare_other_draws(run: Run) -> None:
    first = draw_spread(run)
    assert draw_spread(run) == first
    run.state.step = 1
    second = draw_spread(run)
    run.config.seed += 1
    assert len({each["draw_spread"] for each in (first, second, draw_spread(run))}) == 3


def test_a_loss_that_is_not_finite_has_no_spread(run: Run) -> None:
    with torch.no_grad():
        run.model.transformer.wpe.weight[0] = torch.inf
    assert str(draw_spread(run)) == "{'draw_spread': nan, 'draw_range': nan}"


def test_nothing_is_run_where_nothing_is_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise AssertionError("a draw was run")

    monkeypatch.setattr("est_cli.training.spread.validation_loss", forbidden)
    run.state.step = 6
    assert draw_spread(run) == {}
    run.state.step, run.config.train.spread_draws = 1, 0
    assert draw_spread(run) == {}
    run.config.train.spread_draws = 2
    with pytest.raises(AssertionError, match="a draw was run"):
        draw_spread(run)


def test_one_draw_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.spread_draws: a single draw has no spread; at least 2"):
        accepted("train.spread_draws=1")
