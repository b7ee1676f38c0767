"""One unlearning run in memory: it can take a step, measure itself, and hand out or take back its
whole state.

It writes no file and has no clock in its results but the seconds a step took. The model stays in
eval mode throughout (no dropout, no router jitter), so a step's numbers follow from weights and
step number alone; see design/0003.
"""

# Dims: B documents, S positions, T = S - 1 shifted positions, N labels, C selected cells

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from trace_engine.calibration import FittedWeights, fit_weights
from trace_engine.config import UnlearnConfig, identity_of
from trace_engine.errors import NonFiniteLossError, RunError
from trace_engine.formats import require_known
from trace_engine.methods import needs_start_model
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.routing import ALONE, Profile, Workers, profile
from trace_engine.unlearning import judging, packing, together
from trace_engine.unlearning.anchor import RouterAnchor
from trace_engine.unlearning.facts import collect_facts
from trace_engine.unlearning.forgetting import ForgetPass
from trace_engine.unlearning.masters import Masters
from trace_engine.unlearning.measure import evaluation_row
from trace_engine.unlearning.precision import mixed
from trace_engine.unlearning.reference import StartCopy
from trace_engine.unlearning.retain import RetainWeighting
from trace_engine.unlearning.retaining import RetainPass
from trace_engine.unlearning.saving import save_whole_model
from trace_engine.unlearning.schedule import (
    FORGET,
    RETAIN,
    DocumentOrder,
    learning_rate,
)
from trace_engine.unlearning.settling import settle_run
from trace_engine.unlearning.setup import ProfileStore, set_up
from trace_engine.unlearning.start import StartModel


class Session:
    """A run that is ready to step. Raises a TraceError while being built when the run cannot be.

    `profile` is a profile of the start model made before; `profiles` has some and keeps a new one.
    With several `workers` each process has a session of its own and takes its share of every batch.
    `close` gives the model's hooks and torch's thread count back.
    """

    def __init__(
        self,
        config: UnlearnConfig,
        *,
        profile: Profile | None = None,
        profiles: ProfileStore | None = None,
        workers: Workers = ALONE,
        report: ProgressCallback = ignore_progress,
    ) -> None:
        config, self._trial = settle_run(config, workers)
        self._config = config
        self._workers = workers
        self._report = report
        self._threads_before = torch.get_num_threads()
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        try:
            self.setup = set_up(config, profile_before=profile, profiles=profiles, report=report)
            self._copy: StartCopy | None = None
            if needs_start_model(config.method, config.kept):
                fingerprint = self.setup.opened.info.fingerprint
                self._copy = StartCopy.load(config.model, fingerprint)
        except BaseException:
            torch.set_num_threads(self._threads_before)
            raise
        setup = self.setup
        self.opened, self.profile = setup.opened, setup.profile
        self.profile_key = setup.profile_key
        self.selection, self.weights = setup.selection, setup.weights
        self.trainable = setup.trainable
        self.step = 0
        """Optimizer updates made so far."""
        self.ended: str | None = None
        """The rule of `config.stop` that an evaluation met, with its figure."""
        self._best: judging.Best | None = None
        self._best_tensors: dict[str, Tensor] = {}
        self._orders = {
            side: DocumentOrder(config.seed, side, len(documents.training), config.batch_size)
            for side, documents in ((FORGET, setup.forget), (RETAIN, setup.retain))
        }
        self._weighting = RetainWeighting(
            setup.opened, setup.selection, setup.weights, config.weights
        )
        self._parameters = self.trainable.parameters()
        self._forget = ForgetPass(
            config,
            setup.opened,
            setup.forget.training,
            setup.forget.preferred,
            setup.steering_layer,
            RouterAnchor(setup.opened.sites, [cell for cell, _ in setup.anchored]),
            self._copy,
            workers,
        )
        self._retain = RetainPass(
            config,
            setup.opened,
            setup.retain.training,
            self._weighting,
            self._parameters,
            setup.steering_layer,
            self._copy,
            workers,
        )
        self._masters = Masters(self.trainable.names, self._parameters)
        # One implementation, whatever torch's default becomes: the choice is part of the bits.
        self._optimizer = torch.optim.AdamW(
            self._masters.leaves,
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._measured_start: StartModel | None = None

    @property
    def config(self) -> UnlearnConfig:
        """The settings, as given."""
        return self._config

    @property
    def finished(self) -> bool:
        """Whether all updates have been made, or an evaluation has ended the run."""
        return self.ended is not None or self.step >= self.config.max_steps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release what training attached to the model; the model keeps its trained weights."""
        self.trainable.close()
        torch.set_num_threads(self._threads_before)

    def _start(self) -> StartModel:
        """Findings on the start model: measured once, or brought by a loaded state."""
        if self._measured_start is None:
            steps = self.config.max_steps
            self._measured_start = StartModel.measure(
                self.setup, self._orders[FORGET].drawn(steps), self._report
            )
            if self._weighting.frozen:
                drawn = self._orders[RETAIN].drawn(steps)
                with mixed(self.config.mixed_precision, self.opened.device):
                    self._weighting.freeze(self.opened, self.setup.retain.training, drawn)
        return self._measured_start

    # One step -------------------------------------------------------------------------------------

    def train_step(self) -> dict[str, Any]:
        """Make one optimizer update and return its `train` row.

        `forget_loss` and `retain_loss` are the terms as optimised (retain weighted), `forget_nll`
        and `retain_nll` the plain means over the batch's labels. `refitted` stands in the row of an
        update before which the weights were fitted again, with their `hardness`. Raises
        NonFiniteLossError before the update when loss or gradient norm is NaN or infinite, and
        RunError when the run is finished.
        """
        if self.finished:
            ending = "" if self.ended is None else f" it will make: {self.ended}"
            raise RunError(f"The run has made all its {self.step} updates{ending}.")
        start = self._start()
        started = time.monotonic()
        config = self.config
        refitted = self._refit()
        torch.manual_seed(config.seed * 1_000_003 + self.step)
        self._optimizer.zero_grad(set_to_none=True)
        forget_loss, forget_row = self._forget_pass(start)
        retain_loss, weight_row = self._retain_pass()
        self.trainable.after_backward()
        self._masters.take_gradients()
        leaves = self._masters.leaves
        together.sum_gradients(self._workers, leaves)
        gradients = [p.grad for p in leaves if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self._require_finite(float(norm), "gradient norm")
        if config.grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(leaves, config.grad_clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(
                config.learning_rate,
                config.warmup_steps,
                self.step,
                config.schedule,
                config.max_steps,
            )
        self._optimizer.step()
        self._masters.give_weights()
        self.trainable.after_step()
        self.step += 1
        total = config.forget_weight * forget_loss + config.retain_weight * retain_loss
        if "anchor_loss" in forget_row:
            total += config.anchor_weight * forget_row["anchor_loss"]
        return {
            "kind": "train",
            "step": self.step,
            "loss": total,
            "forget_loss": forget_loss,
            "retain_loss": retain_loss,
            **forget_row,
            **weight_row,
            **refitted,
            "grad_norm": float(norm),
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            "seconds": time.monotonic() - started,
        }

    def _refit(self) -> dict[str, Any]:
        """Fit the weights to the model's routing as it is now, where `refresh_every` says so."""
        every = self.config.weights.refresh_every
        if every is None or self.step == 0 or self.step % every:
            return {}
        self.weights = self._fit_anew()
        self._weighting.refit(self.weights)
        return {"refitted": True, "hardness": self.weights.hardness}

    def _forget_pass(self, start: StartModel) -> tuple[float, dict[str, float]]:
        """Forward and backward of the forget term: its value and what is logged of the batch."""
        value, row = self._forget.backward(self._orders[FORGET].batch(self.step), start)
        return self._require_finite(value, "loss"), row

    def _fit_anew(self) -> FittedWeights:
        """Weights by the routing as it is now; the leading process finds them for all."""

        def fit() -> FittedWeights:
            return fit_weights(
                self.profile_after(),
                self.selection,
                self.config.weights,
                max_length=self.config.max_length,
            )

        if self._workers.size == 1:
            return fit()
        return FittedWeights.from_dict(self._workers.share(lambda: fit().to_dict()))

    def _retain_pass(self) -> tuple[float, dict[str, Any]]:
        """Forward and backward of the retain term: its value and what is logged of its weights."""
        value, row = self._retain.backward(self._orders[RETAIN].batch(self.step), self.step)
        return self._require_finite(value, "loss"), row

    def _require_finite(self, value: float, what: str) -> float:
        if math.isfinite(value):
            return value
        kind = "NaN" if math.isnan(value) else "infinite"
        raise NonFiniteLossError(
            f"{what} became {kind} at step {self.step + 1}. The weights are those of step "
            f"{self.step}; a lower "
            f"learning_rate or gamma, or a grad_clip, usually helps."
        )

    # Measuring ------------------------------------------------------------------------------------

    def evaluate(self) -> dict[str, Any]:
        """Measure the model as it is now, one `eval` row, and judge it by the run's rules.

        It may end the run (`ended`), and its weights may be the best so far.
        """
        start_NLK = self._start().probe_NLK.numpy()
        together.require_same(self._workers, self._parameters)
        row: dict[str, Any] = self._workers.share(
            lambda: evaluation_row(self.setup, self.step, start_NLK, self._report)
        )
        if self.step:
            found = judging.standing(row, self.config)
            self.ended = judging.why_stop(self.config.stop, found)
            if self.config.keep.which == "best":
                best = judging.better(
                    self._best, self.step, found, self.config.keep, self.config.stop
                )
                self._remember(best)
        return row

    def _remember(self, best: judging.Best) -> None:
        if best.step == self.step:
            tensors = self.trainable.tensors()
            self._best_tensors = {name: packing.snapshot(t) for name, t in tensors.items()}
        self._best = best

    def keep(self) -> dict[str, Any]:
        """Give the model the weights that a finished run saves, by `config.keep`.

        Returns `step`, whose evaluation is theirs, and a `sentence` that says why (empty for the
        last step). The optimizer stays where it is: no update may follow.
        """
        if self._best is None:
            return {"step": self.step, "sentence": judging.why_last(self.ended)}
        self.trainable.load(self._best_tensors)
        sentence = judging.why_kept(self._best, self.config)
        return {"step": self._best.step, "sentence": sentence, "best": self._best.to_dict()}

    def facts(self) -> dict[str, Any]:
        """Everything that was decided or found before training, JSON values only."""
        found = collect_facts(self.setup, self._start().knowledge)
        picked = {} if self._trial is None else {"experts_trial": self._trial}
        found["trainable"]["float32_masters"] = self._masters.numbers
        return found | {"processes": self._workers.size} | picked

    def profile_after(self) -> Profile:
        """Profile both sets with the model as it is now, under the settings of the profile
        before.
        """
        sets = self.setup.forget.documents, self.setup.retain.documents
        return profile(self.opened, *sets, self.config.profile_config(), self._report)

    # State ----------------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All a fresh session needs to continue bit for bit: tensors for safetensors, the rest
        JSON.
        """
        start = self._start()
        tensors = {
            f"trainable/{name}": packing.snapshot(value)
            for name, value in self.trainable.tensors().items()
        }
        tensors |= {
            f"master/{name}": packing.snapshot(value)
            for name, value in self._masters.tensors().items()
        }
        tensors |= packing.optimizer_tensors(self._optimizer)
        tensors |= {f"start/{name}": value for name, value in start.tensors().items()}
        tensors |= {
            f"frozen/{index}": packing.snapshot(value)
            for index, value in self._weighting.frozen_active.items()
        }
        tensors |= {f"best/{name}": value for name, value in self._best_tensors.items()}
        data = {
            "schema": packing.SCHEMA,
            "step": self.step,
            "config": identity_of(self.config),
            "identity": self._identity(),
            "weights": self.weights.to_dict(),
            "knowledge": start.knowledge.to_dict(),
            "ended": self.ended,
            "best": None if self._best is None else self._best.to_dict(),
        }
        return tensors, data

    def load_state(self, tensors: Mapping[str, Tensor], data: Mapping[str, Any]) -> None:
        """Continue from a state. Raises RunError, naming the field, when it is another run's."""
        require_known(data, packing.SCHEMA, "The checkpoint", RunError, field="schema")
        if data.get("schema") != packing.SCHEMA:
            raise RunError(
                f"The checkpoint has schema {data.get('schema')!r}, this version reads "
                f"{packing.SCHEMA}. "
                f"Nothing was loaded."
            )
        packing.check_same_settings(data["config"], identity_of(self.config))
        packing.check_same_settings(data["identity"], self._identity())
        masters = packing.under(tensors, "master")
        self._masters.require(masters)
        self.trainable.load(packing.under(tensors, "trainable"))
        self._masters.load(masters)
        packing.load_optimizer(self._optimizer, tensors)
        self.weights = type(self.weights).from_dict(data["weights"])
        self._weighting.refit(self.weights)
        self._measured_start = StartModel.restore(
            packing.under(tensors, "start"), data["knowledge"]
        )
        self._weighting.frozen_active = {
            int(name): value.clone() for name, value in packing.under(tensors, "frozen").items()
        }
        self._best_tensors = {
            name: value.clone() for name, value in packing.under(tensors, "best").items()
        }
        best = data.get("best")  # runs from before the rules have neither
        self._best = None if best is None else judging.Best.from_dict(best)
        self.ended = data.get("ended")
        self.step = int(data["step"])

    def _identity(self) -> dict[str, Any]:
        """What must be the same in a resumed run beside its settings."""
        setup = self.setup
        return {
            "model": setup.opened.info.fingerprint,
            "forget": setup.forget.documents.fingerprint,
            "retain": setup.retain.documents.fingerprint,
            "selected cells": [list(cell) for cell in setup.selection.cells],
        }

    def save_model(self, folder: str | Path) -> None:
        """Save the whole model with its tokenizer; LoRA is merged into the saved weights."""
        save_whole_model(self.opened, self.trainable, Path(folder))

    def model_bytes(self) -> int:
        """What `save_model` writes, up to headers and tokenizer, in bytes."""
        return sum(p.numel() * p.element_size() for p in self.opened.model.parameters())
