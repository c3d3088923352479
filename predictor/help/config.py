"""Hyper-parameters of HELP, and which of its published habits are kept.

Source: Lee et al., "HELP: Hardware-Adaptive Efficient Latency Prediction for NAS via Meta-Learning", NeurIPS
2021, arXiv 2106.08630. Defaults are the paper's numbers; the habits that its code has and its text does not,
are named options, and the default is the mended one (`PUBLISHED` has the others).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True, slots=True)
class HelpConfig:
    """How a learner is built, meta-trained and tested.

    `kl_of`: whose KL divergence enters an episode's loss: of every device ("all"), or of the last one,
    counted once per device ("last", as published). `scored`: which prediction ranks architectures: the mean
    of all draws of z, or the last draw (as published). `label_scale`: what the labels of a target are
    scaled by: what was measured on it, or its whole training index ("whole_table", as published; it reads
    latencies that nobody measured, so only `predictor.benchmarks.help_protocol` can do it). `held_out`: where
    there are no validation devices, this share of the source architectures is kept out of episodes, and
    the checkpoint is chosen by how the source devices' are ranked; 0: the last checkpoint is kept.
    """

    width: int = 100  # L
    embedding: bool = True  # a hardware embedding of reference latencies
    modulator: bool = True  # z; needs the embedding
    learned_rates: bool = True  # Meta-SGD; else one fixed rate, as MAML
    inner_rate: float = 1e-3  # initial value of learned rates
    inner_steps: int = 2
    second_order: bool = True
    outer_rate: float = 1e-4
    episodes: int | None = None  # None: as published for the space, `EPISODES`
    tasks: int = 8  # source devices per episode
    support: int = 10
    query: int = 200
    z_scale: float = 0.01
    kl_weight: float = 0.1
    draws: int = 10  # of z, at test
    validate_every: int = 50  # episodes
    held_out: float = 0.0
    seed: int = 3
    kl_of: Literal["all", "last"] = "all"
    scored: Literal["mean", "last"] = "mean"
    label_scale: Literal["measured", "whole_table"] = "measured"

    def __post_init__(self) -> None:
        if self.modulator and not self.embedding:
            raise ValueError("the z modulator reads the hardware embedding: switch off both or neither")
        if not 0.0 <= self.held_out <= 0.5:
            raise ValueError(f"held_out is a share of at most 0.5, got {self.held_out}")

    def episodes_on(self, space: str) -> int:
        """Episodes of a meta-training on that space."""
        return EPISODES[space] if self.episodes is None else self.episodes

    def described(self) -> Mapping[str, object]:
        """As a JSON object, for checkpoints and digests."""
        return asdict(self)


EPISODES: Mapping[str, int] = MappingProxyType({"nb201": 2000, "fbnet": 4000, "ofa": 2000})

HELP = HelpConfig()
PUBLISHED = HelpConfig(kl_of="last", scored="last", label_scale="whole_table")
META_SGD = HelpConfig(embedding=False, modulator=False)
MAML = HelpConfig(embedding=False, modulator=False, learned_rates=False)

CONFIGS: Mapping[str, HelpConfig] = MappingProxyType(
    {"help": HELP, "help-published": PUBLISHED, "metasgd": META_SGD, "maml": MAML}
)
