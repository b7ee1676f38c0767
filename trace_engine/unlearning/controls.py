"""Controls that credit the method: what stands in TRACE's place while all else stays the same.

`random_experts` replaces the selection once, before the fit; `shuffled_weights` and
`uniform_matched_norm` replace the weights of every batch. What is drawn follows from the seed and
the step number alone, so a resumed run needs no more state. Accepted cost: the matched norm needs a
second backward of the retain term, and the forget term's gradients are held meanwhile.
"""

# Dims: N labels of a batch in row-major order, T shifted positions, B documents, C drawn cells

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from trace_engine.calibration import Selection, select_experts
from trace_engine.config import Cell, SelectionConfig, UnlearnConfig
from trace_engine.errors import CalibrationError
from trace_engine.routing import Profile
from trace_engine.unlearning.retain import Weighed

Gradients = list[Tensor | None]
"""One entry a parameter; None where it has no gradient."""
Control = Literal["none", "uniform_matched_norm", "random_experts", "shuffled_weights"]

SENTENCES: dict[Control, str] = {
    "uniform_matched_norm": "Control: every retain token weighs the same, and each step's retain "
    "gradient is scaled to the norm that the weighted one has on the same batch.",
    "random_experts": "Control: as many experts per layer as the selection has, drawn at random "
    "from the others of that layer, under the same weighting rule.",
    "shuffled_weights": "Control: the weights of each batch are shuffled over its retain tokens.",
}
"""What each control does, as the run's facts say it."""
_EXPERTS, _TOKENS = 3, 4  # streams of the seed beside the two sides' orders


def random_experts(
    profile: Profile, selection: Selection, config: SelectionConfig, seed: int
) -> Selection:
    """As many cells in each layer as `selection` has there, drawn from the layer's other experts.

    Experts that were chosen by the rule and taken out by hand are not drawn either. Raises
    CalibrationError when a layer has too few others.
    """
    taken = {*selection.cells, *selection.removed}
    drawn: list[Cell] = []
    for layer in sorted({cell.layer for cell in selection.cells}):
        wanted = sum(cell.layer == layer for cell in selection.cells)
        experts = profile.num_experts_L[profile.site_of(layer)]
        others = [e for e in range(experts) if Cell(layer, e) not in taken]
        if len(others) < wanted:
            raise CalibrationError(
                f"Layer {layer} has {wanted} selected experts and only {len(others)} others, so "
                "as many random ones cannot be drawn. Select fewer experts, or choose another "
                "control."
            )
        rng = np.random.default_rng([seed, _EXPERTS, layer])
        chosen = rng.choice(others, size=wanted, replace=False).tolist()
        drawn += [Cell(layer, expert) for expert in sorted(chosen)]
    by_rule = selection.table.loc[selection.table["origin"] == "rule", ["layer", "expert"]]
    out = [Cell(int(layer), int(expert)) for layer, expert in by_rule.itertuples(index=False)]
    changed = {"add": tuple(drawn), "remove": (*out, *selection.removed)}
    found = select_experts(profile, config.model_copy(update=changed))
    return replace(
        found,
        table=found.table.assign(origin="random"),
        removed=(),
        notes=(SENTENCES["random_experts"],),
    )


def shuffle_weights(weighed: Weighed, seed: int, step: int) -> Weighed:
    """The same weights on other labels of the same batch; the permutation follows (seed, step)."""
    order_N = np.random.default_rng([seed, _TOKENS, step]).permutation(len(weighed.weights_N))
    weights_N = weighed.weights_N[torch.from_numpy(order_N).to(weighed.weights_N.device)]
    return replace(weighed, weights_N=weights_N)


class MatchedGradients:
    """The uniform and the weighted gradient of a retain batch, added up part by part.

    Built before the first part; what the parameters hold by then is given back, with the matched
    gradient added to it, by `join`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._before = self._take()
        self._uniform: Gradients = [None] * len(parameters)
        self._weighted: Gradients = [None] * len(parameters)

    def add(self, uniform: Tensor, weighted: Tensor) -> None:
        """Backward of both losses of a part; they come from one forward."""
        self._put(self._weighted)
        torch.autograd.backward(weighted, retain_graph=True)
        self._weighted = self._take()
        self._put(self._uniform)
        torch.autograd.backward(uniform)
        self._uniform = self._take()

    def join(self, norm: Callable[[Gradients], float]) -> tuple[float, float]:
        """Scale the uniform gradient to the norm of the weighted one and leave it, with what was
        there before, in the parameters.

        Returns the scale, and the norm that was matched; a uniform gradient that is zero cannot be
        scaled and keeps the scale 1. `norm` is that of the batch's gradient, of which these may be
        one process's share.
        """
        wanted = norm(self._weighted)
        found = norm(self._uniform)
        scale = wanted / found if found else 1.0
        for parameter, gradient, earlier in zip(
            self._parameters, self._uniform, self._before, strict=True
        ):
            if gradient is None:
                parameter.grad = earlier
                continue
            parameter.grad = gradient.mul_(scale)
            if earlier is not None:
                parameter.grad.add_(earlier)
        return scale, wanted

    def _take(self) -> Gradients:
        found: Gradients = [parameter.grad for parameter in self._parameters]
        self._put([None] * len(found))
        return found

    def _put(self, gradients: Gradients) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient


def norm_of(gradients: Gradients) -> float:
    """The norm over everything that has a gradient."""
    return float(torch.nn.utils.get_total_norm([g for g in gradients if g is not None]))


def uniform_weighed(weighed: Weighed, scale: float) -> Weighed:
    """Every label at the weight `scale`: what a matched step has done."""
    return replace(weighed, weights_N=torch.full_like(weighed.weights_N, scale))


def control_facts(config: UnlearnConfig, chosen: Selection, used: Selection) -> dict[str, Any]:
    """What a run's facts say of its control; `chosen` is TRACE's selection, `used` the run's."""
    if config.control == "none":
        return {"name": "none", "sentence": "", "seed": None, "instead_of": []}
    replaced = [list(cell) for cell in chosen.cells] if used is not chosen else []
    return {
        "name": config.control,
        "sentence": SENTENCES[config.control],
        "seed": None if config.control == "uniform_matched_norm" else config.seed,
        "instead_of": replaced,
    }
