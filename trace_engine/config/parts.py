"""The settings that a profile and a run are made of: model, set, experts, weights, what trains,
what is measured, and when a run ends.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trace_engine.config.base import Cell, Settings

_LATER_MODEL_FIELDS = frozenset({"quantization"})


class ModelConfig(Settings):
    source: str = "demo:target"
    """A folder, a hub id, or `demo:target` for the bundled model."""
    revision: str | None = None
    """Commit, tag or branch of a hub model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' precision; `auto` keeps what the checkpoint was saved in."""
    device: str = "auto"
    """`auto` takes the GPU where there is one (spread over all when one is too small), else the
    CPU; or `cpu`, `cuda`, `cuda:1`."""
    experts_implementation: Literal["auto", "eager", "grouped_mm", "batched_mm", "trial"] = "auto"
    """How transformers multiplies the experts; `auto` is a fixed rule, so that bits repeat. `trial`
    times the others on this machine, a second each, and records the fastest in their place: it is
    what a resume goes on with."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Smaller linear layers, for profiling and evaluation; routed experts and routers keep their
    precision."""

    def asked(self) -> dict[str, Any]:
        """The settings as JSON values, as identities and content addresses hash them.

        Fields that came after the first profiles are left out at their default, so that what was
        computed before they existed keeps its address.
        """
        data = self.model_dump(mode="json")
        return {
            name: value
            for name, value in data.items()
            if name not in _LATER_MODEL_FIELDS or value != type(self).model_fields[name].default
        }


class SetConfig(Settings):
    source: str
    """A file or folder (.txt .jsonl .json .csv .parquet), `hub:owner/name`, or `demo:forget`."""
    text_field: str | None = None
    """Field that holds the text; found by itself (`text`, `content`, ...) when empty."""
    hub_config: str | None = None
    """Configuration of a hub set."""
    hub_split: str = "train"
    """Split of a hub set."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first so many documents."""
    label: str = ""
    """What maps and tables call the set; not part of what is computed. Empty: from the source."""


class SelectionConfig(Settings):
    score: Literal["difference", "ratio", "log_ratio", "z"] = "difference"
    """How forget and retain are compared per cell."""
    statistic: Literal["frequency", "gate_mass"] = "frequency"
    """What is compared: share of tokens routed, or mean gate weight."""
    scope: Literal["per_layer", "global", "threshold", "cumulative"] = "per_layer"
    """Top-k per layer, top-k over the model, all above a score, or the least set with a share."""
    top_k: Annotated[int, Field(ge=1)] = 2
    """Selected experts per layer (`per_layer`) or in all (`global`); not the router's K."""
    threshold: float = 0.05
    """Least score for `threshold`."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the summed positive gap for `cumulative`."""
    floor: bool = True
    """Only cells whose forget side exceeds the retain side and the uniform share K/E."""
    layers: tuple[int, ...] | None = None
    """Decoder layers to choose from; empty means all MoE layers."""
    add: tuple[Cell, ...] = ()
    """Hand-picked cells, added after the rule and recorded as such."""
    remove: tuple[Cell, ...] = ()
    """Cells taken out by hand, recorded as such."""


class WeightsConfig(Settings):
    rule: Literal["uniform", "mean", "max", "product", "additive", "odds", "exact"] = "exact"
    """How retain tokens are weighted; `uniform` is the unweighted method."""
    hardness: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = "auto"
    """kappa: how far the retain frequency moves to the forget side; `auto` obeys the ESS floor."""
    ess_floor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Least effective sample size over N that `auto` accepts."""
    strength: Annotated[float, Field(ge=0, le=4)] = 1.0
    """eta: w**eta, for the simple rules."""
    clip: tuple[float, float] = (0.1, 20.0)
    """Bounds of the per-expert ratio r_s of the simple rules."""
    normalise: Literal["set", "batch", "sequence", "none"] = "set"
    """Over what the weights have mean 1."""
    routing: Literal["current", "frozen"] = "current"
    """Whose routing weighs a token: the model being trained (detached) or the start model."""
    refresh_every: Annotated[int, Field(ge=1)] | None = None
    """Updates after which both sets are profiled anew, with the model as it then is, and the
    weights are fitted again; the experts stay. Empty: never, the start model's profile holds."""

    @model_validator(mode="after")
    def _clip_is_an_interval(self) -> Self:
        low, high = self.clip
        if not 0 < low <= 1 <= high:
            raise ValueError(f"clip must satisfy 0 < low <= 1 <= high, found {self.clip}")
        return self

    @model_validator(mode="after")
    def _refreshes_something(self) -> Self:
        if self.refresh_every is None:
            return self
        if self.rule == "uniform":
            raise ValueError(
                "refresh_every is given and rule is uniform: there are no weights to fit again. "
                "Choose another rule, or leave refresh_every out"
            )
        if self.routing == "frozen":
            raise ValueError(
                "refresh_every is given and routing is frozen: weights of the start model's "
                "routing do not drift. Set routing to current, or leave refresh_every out"
            )
        return self


class TrainableConfig(Settings):
    kind: Literal["all", "selected_experts", "layers", "lora", "top_experts"] = "all"
    """What may train: every parameter, only the selected experts' slices, whole decoder layers,
    LoRA adapters, or the expert that forget text uses most with its layer's router (SEUF)."""
    layers: tuple[int, ...] | None = None
    """Decoder layers that train, for `layers`; empty: those of the selected experts."""
    freeze_routers: bool = False
    """Keep the routers as they are, for `all` and `layers`. `top_experts` trains those of its
    layers, the other kinds none."""
    number: Annotated[int, Field(ge=1)] = 1
    """Experts that train, for `top_experts`: those with the highest gate mass on the forget set,
    over the whole model. SEUF takes 1; with more in other layers its authors saw utility fall."""
    lora_rank: Annotated[int, Field(ge=1, le=256)] = 8
    """Width of the adapters: more can change more, and trains more parameters."""
    lora_alpha: Annotated[float, Field(gt=0)] = 16.0
    """Scale of the adapters: what they add is multiplied by this over the rank."""

    @model_validator(mode="after")
    def _layers_are_for_layers(self) -> Self:
        if self.layers is not None and self.kind != "layers":
            raise ValueError(
                f"layers is given and kind is {self.kind}: only the kind layers trains chosen "
                "layers. Set kind to layers, or leave layers out"
            )
        if self.freeze_routers and self.kind == "top_experts":
            raise ValueError(
                "freeze_routers is true and kind is top_experts, which trains its layers' routers. "
                "Set freeze_routers to false, or pick the experts by hand: kind selected_experts, "
                "and selection.add"
            )
        if self.number != 1 and self.kind != "top_experts":
            raise ValueError(
                f"number is given and kind is {self.kind}: only the kind top_experts takes so many "
                "experts. Set kind to top_experts, or leave number out"
            )
        return self


class EvaluationConfig(Settings):
    every: Annotated[int, Field(ge=1)] = 10
    """Optimizer updates between evaluations; start and end are always evaluated."""
    questions: str | None = None
    """Multiple-choice file or published folder, `hub:owner/name:config`, or
    `demo:questions/validation`; empty: held-out loss only."""
    forget_category: str = "hazard"
    """Category of the questions that should be forgotten; every other category is utility."""
    style: Literal["continuation", "letters"] = "continuation"
    """Score each choice's own words, or the letters A-D after an MMLU prompt."""
    max_questions: Annotated[int, Field(ge=1)] | None = None
    """At most so many questions per category, for speed; n is always shown."""
    max_documents: Annotated[int, Field(ge=1)] = 200
    """Documents per side for the loss curves and the drift probe."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of documents kept out of training when there are no questions."""


_Share = Annotated[float, Field(ge=0, le=1)]
_Loss = Annotated[float, Field(gt=0)]


class StopConfig(Settings):
    """When a run ends before its last step; looked at in every evaluation after the first."""

    forget_at_most: _Share | None = None
    """End once the accuracy on the questions to forget is at most this. Empty: never."""
    utility_at_least: _Share | None = None
    """End once the accuracy on all other questions together is below this; the last step's model is
    then below it too: `keep.which: best` saves one above it where there is one. Empty: never."""
    forget_loss_at_least: _Loss | None = None
    """For runs without questions: end once the forget set's held-out loss is at least this, in
    nats per token."""
    retain_loss_at_most: _Loss | None = None
    """For runs without questions: end once the retain set's held-out loss is above this, in nats
    per token; the last step's model is then above it too, as with `utility_at_least`."""


class KeepConfig(Settings):
    """Which state of the model a run saves when it has ended."""

    which: Literal["last", "best"] = "last"
    """The model that is saved at the end: that of the last step, or that of the best evaluation
    after the first: the largest utility among those that have forgotten enough; if none has, the
    one that forgot most."""
    forget_at_most: _Share | None = None
    """For `best`: enough is forgotten where the accuracy on the questions to forget is at most
    this."""
    forget_loss_at_least: _Loss | None = None
    """For `best` without questions: enough is forgotten where the forget set's held-out loss is at
    least this, in nats per token; the largest utility is then the smallest held-out retain loss."""

    @model_validator(mode="after")
    def _best_has_a_threshold(self) -> Self:
        given = [n for n in ("forget_at_most", "forget_loss_at_least") if getattr(self, n)]
        given += ["forget_at_most"] if self.forget_at_most == 0 else []
        if self.which == "last" and given:
            raise ValueError(
                f"{given[0]} is given and which is last: only the best evaluation is chosen by a "
                f"threshold. Set which to best, or leave {given[0]} out"
            )
        if self.which == "best" and not given:
            raise ValueError(
                "which is best, and nothing says how much must be forgotten. Give forget_at_most "
                "(an accuracy), or forget_loss_at_least for a run without questions"
            )
        return self
