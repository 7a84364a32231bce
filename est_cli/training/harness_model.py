"""A model in training, as lm-evaluation-harness (an extra) wants models to be. Imported only where that is there."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from est_cli.distributed import Group

if TYPE_CHECKING:
    from est_cli.training.run import Run

Request = tuple[Any, list[int], list[int]]
"""What the harness calls so: (strings, tokens before, tokens to be predicted)."""


class _InTraining(HFLM):
    """Computes as the run does, in batches that processes share."""

    group: Group | None = None

    def _model_call(self, inps: Tensor, attn_mask: Any = None, labels: Any = None) -> Tensor:
        """(B, T) tokens -> (B, T, V) logits, in the run's precision and then fp32."""
        logits: Tensor = self.model(input_ids=inps, use_cache=False).logits
        return logits.float()

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether it is what the model would say) of each request, the same in all processes."""
        own = range(len(requests)) if self.group is None else self._own(requests, self.group)
        found = super()._loglikelihood_tokens([requests[i] for i in own], disable_tqdm=True) if own else []
        if self.group is None:
            return list(found)
        numbers = [0.0] * 2 * len(requests)
        for i, (log_likelihood, greedy) in zip(own, found, strict=True):
            numbers[2 * i : 2 * i + 2] = [log_likelihood, float(greedy)]
        numbers = self.group.sum(numbers)  # zeros of the others: exact
        return [(likely, bool(greedy)) for likely, greedy in zip(numbers[::2], numbers[1::2], strict=True)]

    def _own(self, requests: Sequence[Request], group: Group) -> list[int]:
        """The places of this process's requests: every so many batches of one process's order, the longest first."""
        tokens = [(*before, *predicted) for _, before, predicted in requests]
        order = sorted(range(len(requests)), key=lambda i: (-len(tokens[i]), tokens[i]))
        size, rank = int(self.batch_size), group.rank
        return [i for at, i in enumerate(order) if at // size % rank.world_size == rank.rank]


def harness_model(run: Run, group: Group | None) -> HFLM:
    """The run's model, whatever is active of it; `group`: the processes that share the work, None: nobody does."""
    tokenizer = copy.deepcopy(run.corpus.tokenizer)  # which the harness gives a token to pad with
    model = _InTraining(
        pretrained=run.model,
        tokenizer=tokenizer,
        max_length=getattr(run.model.config, "max_position_embeddings", None) or run.batch.block,
        batch_size=run.micro_batches[max(run.micro_batches)],
        prefix_token_id=tokenizer.eos_token_id,  # what texts begin behind in training
        logits_cache=False,  # with it batches are made of other requests
    )
    model.group = group
    return model
