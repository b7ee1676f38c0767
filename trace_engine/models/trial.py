"""A timed trial of the ways to multiply the experts, on this machine and in the model's shape.

One experts module with random weights stands for the model: shape and machine decide speed, values
do not. Trade-off: `auto` never measures, so that the same settings give the same bits;
`experts_implementation: trial` does, and is replaced by what it picked before anything is computed
or addressed, so that bits repeat from then on.
"""

# Dims: T tokens, D hidden, K experts per token

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models.adapters import ScoredSite, SortedSite
from trace_engine.models.files import locate
from trace_engine.models.memory import free_on, machine_memory, memory_need
from trace_engine.models.open import (
    choose_place,
    experts_implementation,
    outline,
)
from trace_engine.models.probe import NOT_WITHOUT_DATA
from trace_engine.models.site import Site, argument_names
from trace_engine.models.sites import experts_per_token, find_sites
from trace_engine.spelling import size

TOKENS = 512
SECONDS = 1.0
"""What each implementation gets, warm-up aside; a slow one is run twice whatever it takes."""
_MOST_REPEATS = 50


@dataclass(frozen=True, slots=True)
class Timing:
    """One implementation's times for one block of experts."""

    implementation: str
    forward_ms: float
    """Median of `forwards` passes without gradients: profiling and evaluation."""
    forwards: int
    training_ms: float
    """Median of `trainings` passes forward and backward."""
    trainings: int


@dataclass(frozen=True, slots=True)
class Trial:
    """The implementations side by side, in the order tried."""

    timings: tuple[Timing, ...]
    shape: str
    """What was timed, in words."""
    automatic: str
    """What `auto` takes, whatever was measured here."""
    skipped: tuple[str, ...]
    """Implementations that could not run here, each with its reason."""

    @property
    def fastest_forward(self) -> str:
        return min(self.timings, key=lambda t: t.forward_ms).implementation

    @property
    def fastest_training(self) -> str:
        return min(self.timings, key=lambda t: t.training_ms).implementation

    def fastest(self, *, training: bool) -> str:
        """The implementation that `experts_implementation: trial` picks."""
        return self.fastest_training if training else self.fastest_forward

    def sentence(self, *, training: bool) -> str:
        """What was picked, and by which times."""
        times = ", ".join(
            f"{t.implementation} {t.training_ms if training else t.forward_ms:.1f} ms"
            for t in self.timings
        )
        what = "forward and backward" if training else "forward"
        return (
            f"Experts run as {self.fastest(training=training)}, picked by a trial: {times} {what} "
            f"for {self.shape}."
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {
            "fastest_forward": self.fastest_forward,
            "fastest_training": self.fastest_training,
        }


def try_experts(
    config: ModelConfig, *, tokens: int = TOKENS, seconds: float | None = None
) -> Trial:
    """Time the allowed implementations on the first routed block's shape; no weight is read.

    Each gets `seconds`, else SECONDS.

    Raises ModelError where a block's experts need more memory than is free, or are not called with
    chosen indices and gate weights.
    """
    files = locate(config.source, config.revision)
    model = outline(files, config)
    sites = find_sites(model)
    site = sites[0]
    automatic = experts_implementation(
        config.model_copy(update={"experts_implementation": "auto"}), model
    )
    try:
        per_token = experts_per_token(model, sites)[0]
    except NOT_WITHOUT_DATA:
        raise ModelError(
            f"{files.source}: this family's forward cannot run without its weights, so its experts "
            "cannot be timed beforehand."
        ) from None
    hidden = int(model.config.get_text_config().hidden_size)
    need = memory_need(model, sites, (0,) * len(sites))
    place = choose_place(config.device, need)
    device = torch.device("cuda" if place == "spread" else place)
    taken = 3 * sum(p.numel() * p.element_size() for p in site.module.parameters())
    free = free_on(machine_memory(), str(device))
    # Gradients once, and eager's slices' gradients once more.
    if taken > free:
        raise ModelError(
            f"{files.source}: a trial of one layer's experts needs {size(taken)}, and "
            f"{size(free)} are free. Nothing was timed."
        )
    module = _filled(site.module, device)
    block = _Block(site, module, per_token, hidden, tokens)
    names = ["eager", "grouped_mm", "batched_mm"] if _has_choice(model) else ["eager"]
    timings, skipped = [], []
    for name in names:
        _choose(module, name)
        try:
            timings.append(_time(name, block, SECONDS if seconds is None else seconds))
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            skipped.append(f"{name} cannot run here ({str(error).strip().splitlines()[0][:120]}).")
    if not timings:
        raise ModelError(
            f"{files.source}: its experts ({type(module).__name__}) cannot be timed by themselves. "
            f"{' '.join(skipped)}"
        )
    dtype = str(next(module.parameters()).dtype).removeprefix("torch.")
    threads = torch.get_num_threads()
    shape = (
        f"one layer's {site.num_experts} experts, top-{per_token}, hidden {hidden}, {tokens} "
        f"tokens, {dtype}, {device.type}, {threads} thread{'' if threads == 1 else 's'}"
    )
    return Trial(tuple(timings), shape, automatic, tuple(skipped))


def settle(config: ModelConfig, *, training: bool) -> tuple[ModelConfig, Trial | None]:
    """The settings with `experts_implementation: trial` replaced by what a trial picks, and the
    trial; without a trial where none is asked for.

    `training` picks by forward and backward together, else by the forward alone.
    """
    if config.experts_implementation != "trial":
        return config, None
    trial = try_experts(config)
    picked = {"experts_implementation": trial.fastest(training=training)}
    return config.model_copy(update=picked), trial


def _has_choice(model: Any) -> bool:
    return bool(type(model)._can_set_experts_implementation())


def _filled(shell: nn.Module, device: torch.device) -> nn.Module:
    """The block on a device, with random weights small enough to keep activations finite."""
    module = copy.deepcopy(shell).to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.normal_(0.0, 0.02, generator=generator)
            else:
                tensor.zero_()
    return module


class _Block:
    """The experts with tokens to work on; every token's experts are drawn at random."""

    def __init__(
        self, site: Site, module: nn.Module, per_token: int, hidden: int, tokens: int
    ) -> None:
        like, experts = next(module.parameters()), site.num_experts
        self.module, self._names = module, argument_names(module)
        self._hidden_TD = torch.randn(tokens, hidden, dtype=like.dtype, device=like.device)
        if isinstance(site, SortedSite):  # a whole block, which takes sequences
            self._hidden_TD = self._hidden_TD[None]
        elif isinstance(site, ScoredSite):  # every expert computes every token
            self._hidden_TD = self._hidden_TD.repeat(experts, 1)
        scores_TE = torch.rand(tokens, experts, device=like.device)
        self._index_TK = scores_TE.topk(per_token).indices
        self._weight_TK = torch.full_like(self._index_TK, 1 / per_token, dtype=like.dtype)

    def forward(self) -> None:
        with torch.no_grad():
            self._call(self._hidden_TD)
        self._wait()

    def train(self) -> None:
        output = self._call(self._hidden_TD.detach().requires_grad_(True))
        torch.autograd.backward(output.sum())
        self.module.zero_grad(set_to_none=True)
        self._wait()

    def _call(self, hidden_TD: Tensor) -> Tensor:
        given = zip(self._names, (hidden_TD, self._index_TK, self._weight_TK), strict=False)
        output: Tensor = self.module(**dict(given))
        return output

    def _wait(self) -> None:
        if self._hidden_TD.is_cuda:
            torch.cuda.synchronize(self._hidden_TD.device)


def _choose(module: nn.Module, implementation: str) -> None:
    settings: Any = getattr(module, "config", None)
    if settings is not None:
        settings._experts_implementation_internal = implementation


def _time(name: str, block: _Block, seconds: float) -> Timing:
    forward_ms, forwards = _median(block.forward, seconds / 2)
    training_ms, trainings = _median(block.train, seconds / 2)
    return Timing(name, forward_ms, forwards, training_ms, trainings)


def _median(work: Callable[[], None], seconds: float) -> tuple[float, int]:
    work()
    times: list[float] = []
    while len(times) < 2 or (sum(times) < seconds and len(times) < _MOST_REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times), len(times)
