"""Is a trained model better than counting words? The validation loss of a unigram model of the same corpus.

python studies/unigram.py outputs/NAME

The unigram model has the frequencies of the training tokens (add-one smoothed); its loss is the token mean (nats) over
the validation tokens that the run itself was evaluated on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from est_cli.config.batch import longest_sequence
from est_cli.config.run import tokenizer_of
from est_cli.config.stored import stored_config
from est_cli.data import load_corpus
from est_cli.families import spec_of
from est_cli.models import hf_config


def unigram_loss(run: Path) -> float:
    """Validation loss of the unigram model, in the folder where the run was trained (its data/ is used)."""
    config = stored_config(run)
    vocab_size = spec_of(hf_config(config.model)).vocab_size
    corpus = load_corpus(
        config.dataset, tokenizer_of(config), vocab_size, config.paths.data_folder, longest_sequence(config.train)
    )
    counts = np.bincount(corpus.train.streams[0].read(), minlength=vocab_size) + 1
    log_p = np.log(counts / counts.sum())
    validation = corpus.validation.streams[0].read()[: config.train.eval_tokens]
    return float(-log_p[validation].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    final = json.loads((run / "summary.json").read_text("utf-8"))["final_val_loss"]
    print(f"unigram {unigram_loss(run):.4f}, {run.name} {final:.4f}")


if __name__ == "__main__":
    main()
