"""One run is one typed value: the dataclasses of every config group.

Composed by Hydra from conf/ (see compose.py), checked once by checks.py, then passed on as it is. Nothing heavy is
imported here: a wrong setting is told before torch starts. Units stand in the names (`_steps`, `_tokens`) or in the
line under a field. `None` means "not set"; 0 means "never" for every `*_every`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Union


class Family(StrEnum):
    """How the model is made: from the numbers in `model.*`, or (`hf`) from `model.name_or_path`."""

    gpt2 = "gpt2"
    llama = "llama"
    hf = "hf"


class Source(StrEnum):
    """Where the text comes from."""

    stdlib = "stdlib"
    files = "files"
    tokens = "tokens"
    hub = "hub"


class SchedulerName(StrEnum):
    three_stage = "three_stage"
    dense = "dense"


class Redraw(StrEnum):
    step = "step"
    forward = "forward"


class Ranks(StrEnum):
    same = "same"


class KvGroups(StrEnum):
    whole = "whole"
    within = "within"


class LayerScale(StrEnum):
    none = "none"
    inverse = "inverse"


class LrSchedule(StrEnum):
    wsd = "wsd"
    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class SkippedLayers(StrEnum):
    frozen = "frozen"


class UnsampledRows(StrEnum):
    zero_grad = "zero_grad"


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


class LmLossKind(StrEnum):
    chunked = "chunked"
    torch = "torch"
    whole = "whole"


class Attention(StrEnum):
    """Which of torch's attention kernels; auto: torch chooses the fastest that can do it."""

    auto = "auto"
    flash = "flash"
    cudnn = "cudnn"
    efficient = "efficient"
    math = "math"


class WandbMode(StrEnum):
    auto = "auto"
    online = "online"
    offline = "offline"
    off = "off"


class Target(StrEnum):
    """What `target_saving` holds fixed while it moves the stage boundaries."""

    ratio = "ratio"
    t1 = "t1"
    t2 = "t2"


class Convention(StrEnum):
    """Which FLOPs are meant: the paper's (`blocks`) or all matrix products (`total`)."""

    blocks = "blocks"
    total = "total"


@dataclass
class ModelConfig:
    name: str = "gpt2_tiny"
    """Name of the preset; used in run names only."""
    family: Family = Family.gpt2
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    """Key/value heads of a Llama (grouped-query attention); None: as many as num_heads."""
    mlp_size: int | None = None
    """MLP columns; None: four times hidden_size."""
    max_positions: int | None = None
    """The longest sequence the model is made for; rotary models have no table of that length but keep the promise."""
    dropout: float = 0.0
    tie_embeddings: bool | None = None
    """Whether the LM head shares the embedding's weight; None: as the family does (gpt2 yes, llama no)."""
    rope_theta: float | None = None
    name_or_path: str | None = None
    """family=hf: a local config or checkpoint folder, or a hub id."""
    pretrained: bool = True
    """family=hf: continue from the weights found there; false: only the architecture, freshly initialised."""
    fused_activation: bool = True
    """Compute GPT-2's `gelu_new` by torch's fused GELU, the same function to rounding; config.json then says
    `gelu_pytorch_tanh`."""


@dataclass
class DatasetConfig:
    name: str = "stdlib"
    source: Source = Source.stdlib
    files: list[str] = field(default_factory=list)
    """source=files: paths or globs of .txt, .jsonl, .parquet (also .gz, .xz, .zst); source=tokens: a .bin file."""
    validation_files: list[str] = field(default_factory=list)
    """Held-out files of the same kind; none: `validation_fraction` of the documents is held out."""
    hub_ids: list[str] = field(default_factory=list)
    """source=hub: data sets of the hub or local folders of that layout; several are concatenated."""
    hub_config: str | None = None
    hub_split: str = "train"
    hub_validation_split: str | None = None
    """source=hub: the split to validate on; None: `validation_fraction` of the documents."""
    text_fields: list[str] = field(default_factory=lambda: ["text", "content"])
    """jsonl, parquet, hub: the first of these fields that a data set has is its text."""
    validation_fraction: float = 0.02
    token_dtype: str = "uint16"
    """source=tokens: how the ids are stored, uint16 or uint32 (little-endian)."""
    num_workers: int | None = None
    """Threads that tokenise; None: one per CPU core."""


@dataclass
class SchedulerConfig:
    name: SchedulerName = SchedulerName.three_stage


@dataclass
class StageConfig:
    t1: Union[int, float, None] = None  # noqa: UP007  (OmegaConf reads typing.Union)
    """First step of stage 2: a float is a fraction of the run, an int a step (1 is step 1, 1.0 the end)."""
    t2: Union[int, float, None] = None  # noqa: UP007
    """First step of stage 3, in the same way."""
    p_h: float | None = None
    """Sampling rate of attention heads in stages 1 and 2, in (0, 1]."""
    p_m: float | None = None
    """Sampling rate of MLP columns in stages 1 and 2, in (0, 1]."""
    p_l: float | None = None
    """Sampling rate of layers in stage 1, in (0, 1]."""


@dataclass
class SamplingConfig:
    redraw: Redraw = Redraw.step
    ranks: Ranks = Ranks.same
    per_layer: bool = True
    kv_groups: KvGroups = KvGroups.whole
    layer_scale: LayerScale = LayerScale.none
    keep_ends: bool = False


DEFAULT_DECAY = 0.2
"""What `optim.decay: null` means: the last fifth of the run."""
DEFAULT_MIN_LR_RATIO = 0.1
"""What `optim.min_lr_ratio: null` means."""


@dataclass
class OptimConfig:
    name: str = "adamw"
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """Applied to matrices and embeddings, not to biases and norms."""
    grad_clip: float = 1.0
    """Largest global gradient norm; 0: no clipping."""
    schedule: LrSchedule = LrSchedule.wsd
    warmup: Union[int, float] = 0.02  # noqa: UP007
    """Steps (int) or fraction of the run (float) of linear warm-up."""
    decay: Union[int, float, None] = None  # noqa: UP007
    """wsd only: steps (int) or fraction (float) of the final linear decay; None: 0.2."""
    min_lr_ratio: float | None = None
    """The floor of wsd, cosine and linear as a fraction of lr; None: 0.1."""
    skipped_layers: SkippedLayers = SkippedLayers.frozen
    unsampled_rows: UnsampledRows = UnsampledRows.zero_grad


@dataclass
class TrainConfig:
    max_steps: int | None = None
    """Optimizer steps; None with max_tokens None: 300."""
    max_tokens: int | None = None
    """Budget in tokens instead of steps: rounded up to whole steps."""
    seq_len: int = 256
    tokens_per_step: int = 4096
    """Tokens per optimizer step over all micro-batches; a multiple of seq_len."""
    micro_batch: Any = 16  # OmegaConf knows no Union with a list; batch_sizes.py checks what it holds
    """Sequences per forward pass and rank: an int, `auto` (the largest that fits, found when the run starts), or a list
    with one of these for each stage, [32,24,16]."""
    precision: Precision = Precision.fp32
    compile: bool | None = None
    """Regional torch.compile of each layer; None: on CUDA only."""
    attention: Attention = Attention.auto
    lm_loss: LmLossKind = LmLossKind.chunked
    """How the LM head's loss is computed: piece by piece with its gradients (chunked), by torch's own function of that
    kind (torch 2.13 and later), or from the logits of all positions as plain Hugging Face does it (whole)."""
    lm_chunk: int | None = None
    """Positions of a piece under lm_loss=chunked and torch; None: as measured for the device."""
    pad_vocab_to: int | None = None
    """lm_loss=chunked: fill the columns of the LM head's product up to a multiple of this, outside of the model and its
    softmax; None: 128 on CUDA, where odd sizes are slow, else 1 (none)."""
    activation_checkpointing: bool = False
    log_every: int = 1
    eval_every: int = 50
    eval_tokens: int | None = 131072
    """Validation tokens read at each evaluation, from the start of the validation split; None: all of it."""
    checkpoint_every: int = 100
    async_checkpoints: bool | None = None
    """Copy what is saved to the host and write it while training goes on; None: on CUDA only."""
    keep_last: int = 2
    """Newest checkpoints kept (at least 2); those at stage transitions are kept beside them."""
    keep_every: int = 0
    """Also keep each checkpoint whose step is a multiple of this."""
    sample_every: int = 0
    """Print a continuation of sample_prompt every so many steps, and at the end."""
    sample_prompt: str = "def "
    sample_tokens: int = 64
    profile_step: int | None = None
    """Record a profiler trace of profile_steps steps from this one on, into the run's folder profile/; None: never."""
    profile_steps: int = 3


@dataclass
class TrackingConfig:
    wandb: WandbMode = WandbMode.auto
    """auto: online where a key is configured, otherwise offline."""
    project: str = "est"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class RunConfig:
    run_name: str | None = None
    """Folder below outputs/; None: made from model, scheduler and time."""
    resume: str | None = None
    """A run folder to continue, or `auto`."""
    seed: int = 0
    tokenizer: str = "auto"
    """`bpe`: byte-level BPE trained on the corpus and cached; otherwise a folder or a hub id. `auto`: that of a
    pre-trained model that is continued, else bpe."""
    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)
    stage: StageConfig = field(default_factory=StageConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


@dataclass
class PlanConfig(RunConfig):
    target_saving: float | None = None
    """Find the stage boundaries that save this fraction of the FLOPs, in (0, 1)."""
    target_convention: Convention = Convention.blocks
    target_keep: Target = Target.ratio
    """What stays as it is while the boundaries move: the ratio t1:t2, or t1, or t2."""


FREE_KEYS = (
    "run_name", "resume", "train.micro_batch", "train.compile", "train.activation_checkpointing", "train.attention",
    "train.lm_loss", "train.lm_chunk", "train.pad_vocab_to", "train.profile_step", "train.profile_steps",
    "train.log_every", "train.eval_every", "train.eval_tokens", "train.checkpoint_every",
    "train.async_checkpoints", "train.keep_last", "train.keep_every", "train.sample_every", "train.sample_prompt",
    "train.sample_tokens", "tracking", "dataset.num_workers",
)  # fmt: skip
"""Keys (or whole groups) that may change when a run is resumed; every other key defines the run and is frozen."""
