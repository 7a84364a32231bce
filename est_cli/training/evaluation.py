"""What is said of the model while it trains: the validation loss of the complete one, and a text that it writes."""

from __future__ import annotations

import math

from est_cli.common.redact import one_line
from est_cli.distributed import gathered
from est_cli.distributed.device import any_attention_kernel
from est_cli.tracking import In
from est_cli.training.run import Run
from est_cli.training.spread import draw_spread
from est_cli.training.validation import sample_text, validation_loss


def evaluate(run: Run) -> float:
    """Validation loss of the complete model, or of the layers that it has so far, recorded at the present step."""
    train, filled_to = run.config.train, run.micro_batches[max(run.micro_batches)] if run.compiled else 1
    with gathered(run.objective):
        spread = draw_spread(run)
        run.handle.activate(run.in_use)
        batches = run.validation_batches(train.eval_tokens)
        sums = validation_loss(run.objective, batches, run.autocast, filled_to)
    total, count = run.group.sum(sums)
    loss, step = total / count, run.state.step
    perplexity = math.exp(loss) if loss < 700 else math.inf
    bits = run.bits_per_byte(loss) if run.rank.first else None
    found = {"val_loss": loss, "perplexity": perplexity, "bits_per_byte": bits} | spread
    run.tracker.validation(
        {"step": step, "tokens": run.batch.tokens_before(step), **found, "flops": run.ledger.used.total}
    )
    of_bytes = "" if bits is None else f", {bits:.4f} bits per byte"
    run.progress.line(f"validation at step {step}: loss {loss:.4f}, perplexity {perplexity:.2f}{of_bytes}")
    return loss


def show_sample(run: Run) -> None:
    train = run.config.train
    run.handle.activate(run.in_use)
    # A token at a time is not what the chosen kernel is made for.
    with run.autocast(), any_attention_kernel(), gathered(run.objective):
        text = sample_text(run.model, run.corpus.tokenizer, train.sample_prompt, train.sample_tokens, run.config.seed)
    run.tracker.event(In.sample, {"step": run.state.step, "prompt": train.sample_prompt, "text": text})
    run.progress.line(f"sample at step {run.state.step}: {one_line(text)}")
