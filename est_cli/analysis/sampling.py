"""analysis=structural_dropout: what sampling adds to the loss of a checkpoint."""

from __future__ import annotations

import torch

from est_cli.analysis.dropout import kinds_of, mean_outputs, regularisation
from est_cli.analysis.job import Job, Outcome
from est_cli.common.errors import ConfigError
from est_cli.config import AnalyzeConfig
from est_cli.config.resolve import options_of
from est_cli.est import IndexGenerator, ModelSpec, SamplingRates, apply_est
from est_cli.est.sizes import realised_rates, sample_sizes
from est_cli.families import spec_of
from est_cli.models.pretrained import Checkpoint


def structural_dropout(job: Job) -> Outcome:
    """The regularisation term of each kind of sampling, its second-order prediction, and the mean of the outputs."""
    config, checkpoint = job.config, job.asked[0].checkpoint
    spec, kinds = spec_for(checkpoint, config), kinds_of(rates_of(config))
    model = job.load(checkpoint).requires_grad_(False)
    loss, value = job.loss(model, checkpoint)
    handle = apply_est(model, spec)
    generator = IndexGenerator(spec, config.seed, options_of(config.sampling))
    found = regularisation(loss, job.batches, handle, generator, kinds, config.analyze.draws, job.work)

    def run() -> None:
        with torch.no_grad():
            model(input_ids=job.text.batches[0].to(model.device), use_cache=False)

    outputs = mean_outputs(run, handle, generator, rates_of(config), config.analyze.draws, job.work)
    sizes = sample_sizes(spec, rates_of(config), options_of(config.sampling))
    result = {
        "checkpoint": checkpoint.name,
        "loss": value,
        "draws": config.analyze.draws,
        "realised": vars(realised_rates(spec, [(sizes, 1)])),
        "regularisation": [one.to_json() for one in found],
        "mean_output": {path: one.to_json() for path, one in outputs.items()},
    }
    return result, {}


def rates_of(config: AnalyzeConfig) -> SamplingRates:
    return SamplingRates(**vars(config.stage))


def spec_for(checkpoint: Checkpoint, config: AnalyzeConfig) -> ModelSpec:
    """Raises ConfigError for a family that EST does not know, and where the rates do not fit the model."""
    try:
        spec = spec_of(checkpoint.config)
    except ValueError as error:
        raise ConfigError(str(error).replace("model:", "checkpoint:", 1)) from error
    try:
        sample_sizes(spec, rates_of(config), options_of(config.sampling))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return spec
