"""Typed, validated settings: one file that the app, the CLI and Python write and read alike.

Each field's docstring is its documentation everywhere (the page shows it as help). Impossible
combinations are refused when the object is built. Unknown fields are errors, so that a typo never
turns into a default.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from trace_engine.errors import InputError
from trace_engine.methods import LEGACY_BETA, METHODS, PARAMETERS, MethodName, RetainTerm
from trace_engine.refusal import describe
from trace_engine.yamlfile import read_yaml

SCHEMA_VERSION = 1


class Cell(NamedTuple):
    """One expert of one MoE site: the row and column of every map."""

    layer: int
    """True decoder layer number, as the model's own module names count it."""
    expert: int
    """Index of the expert inside the layer."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


_LATER_MODEL_FIELDS = frozenset({"quantization"})


class ModelConfig(_Settings):
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


class SetConfig(_Settings):
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


class ProfileConfig(_Settings):
    kind: Literal["profile"] = "profile"
    name: str = ""
    """A label for lists; not part of what is computed."""
    model: ModelConfig = ModelConfig()
    forget: SetConfig
    retain: SetConfig
    count_bos: bool = False
    """Whether the beginning-of-sequence token counts on the map."""
    max_length: Annotated[int, Field(ge=8, le=131072)] = 512
    """Tokens per document; the rest is cut, and the number cut is reported."""
    tokens_per_batch: Annotated[int, Field(ge=64)] = 8192
    """Padded tokens per forward; documents are sorted by length first."""
    sample_tokens: Annotated[int, Field(ge=1000)] = 200_000
    """Token-level routing kept per side for contexts and weights: whole documents, seeded."""
    permutations: Annotated[int, Field(ge=99)] = 9_999
    """Label permutations over documents for the max-statistic p-values."""
    bootstrap: Annotated[int, Field(ge=100)] = 1_000
    """Document resamples for confidence intervals."""
    seed: int = 0


class SelectionConfig(_Settings):
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


class WeightsConfig(_Settings):
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


class TrainableConfig(_Settings):
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


class EvaluationConfig(_Settings):
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


class StopConfig(_Settings):
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


class KeepConfig(_Settings):
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


TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

_LATER_RUN_FIELDS = frozenset(
    {
        "control",
        "beta1",
        "beta2",
        "delta",
        "steering",
        "steering_layer",
        "anchor",
        "micro_batch_size",
        "schedule",
        "mixed_precision",
        "stop",
        "keep",
    }
)
_LATER_WEIGHTS_FIELDS = frozenset({"refresh_every"})
_LATER_TRAINABLE_FIELDS = frozenset({"layers", "freeze_routers", "number"})


class UnlearnConfig(_Settings):
    kind: Literal["unlearn"] = "unlearn"
    name: str = ""
    """A label for lists; not part of what is computed."""
    model: ModelConfig = ModelConfig()
    forget: SetConfig
    retain: SetConfig
    method: MethodName = "npo"
    """Forget loss: what is raised on the forget set, and how it fades."""
    gamma: Annotated[float, Field(ge=0)] | None = None
    """Weight of the forget term. Empty: the method's default, 0.125 for SimNPO, else 1."""
    alpha: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the retain term; GA has none and ignores it."""
    beta: Annotated[float, Field(gt=0)] | None = None
    """Inverse temperature of NPO (0.1) and SimNPO (4.5), power of the probability in WGA (1), how
    far UNDIAL lowers the true token's logit (10). Empty: the method's default, in parentheses."""
    beta1: Annotated[float, Field(ge=0)] | None = None
    """SatImp's power of p. Empty: 5."""
    beta2: Annotated[float, Field(ge=0)] | None = None
    """SatImp's power of 1 - p. Empty: 1."""
    delta: float | None = None
    """SimNPO's loss per token from which on a document counts as forgotten. Empty: 0."""
    steering: Annotated[float, Field(gt=0)] | None = None
    """RMU's c, the length of the vector that hidden states of forget text are driven to; compare it
    with `forget_hidden_norm` of the first row. Empty: 20."""
    steering_layer: Annotated[int, Field(ge=0)] | None = None
    """Decoder layer whose hidden states RMU drives, counted from 0. Empty: by depth, the last one
    of the first quarter (7 of 32, as its authors have it)."""
    retain_term: RetainTerm | None = None
    """What is kept on the retain set: its loss (`nll`), the start model's predictions (`kl`), or
    its hidden states (`hidden`: the last ones, for RMU those of its layer). The last two hold a
    second copy of the model and cost one more forward a step. Empty: `hidden` for RMU, else
    `nll`."""
    selection: SelectionConfig = SelectionConfig()
    weights: WeightsConfig = WeightsConfig()
    control: Literal["none", "uniform_matched_norm", "random_experts", "shuffled_weights"] = "none"
    """What stands in TRACE's place, to see what it is worth: uniform weights at the norm that the
    weighted retain gradient has, as many random experts per layer, or the weights shuffled over
    the batch's retain tokens. All else stays the same."""
    trainable: TrainableConfig = TrainableConfig()
    anchor: Annotated[float, Field(ge=0)] | None = None
    """Weight of SEUF's router anchor, for `trainable.kind: top_experts`: forget tokens are to be
    routed to the expert that trains, and not away from it. 0: none. Empty: 1."""
    evaluation: EvaluationConfig = EvaluationConfig()
    max_steps: Annotated[int, Field(ge=1)] = 60
    """Optimizer updates, not batches."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Documents per side and step."""
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    """At most so many of them in memory at once: a step goes through its batch in parts and adds
    up their gradients (gradient accumulation). Less memory, the same step up to rounding. Empty:
    the whole batch at once."""
    max_length: Annotated[int, Field(ge=8)] = 256
    """Tokens per document in training."""
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = 2e-4
    """Size of a step of AdamW: larger forgets sooner and breaks more."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer updates over which the learning rate rises to its value."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The learning rate after the warm-up: unchanged, or falling towards 0 at the last step, along
    half a cosine or a straight line."""
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; empty: no clipping."""
    mixed_precision: Literal["none", "bfloat16"] = "none"
    """Narrow the products of the forwards that train, for speed where the processor has it;
    weights, gradients and losses keep their precision, and evaluations run without it."""
    stop: StopConfig = StopConfig()
    """When the run ends before its last step."""
    keep: KeepConfig = KeepConfig()
    """Which state of the model is saved at the end."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 20
    """Optimizer updates between checkpoints."""
    trackers: tuple[TrackerName, ...] = ()
    """Where the rows are mirrored to as they come, through accelerate; not part of what is
    computed. Empty: nowhere. `wandb` sends them to its server."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; the same number gives the same bits. Empty: torch's default."""
    count_bos: bool = False
    profile_max_length: Annotated[int, Field(ge=8)] = 512
    sample_tokens: Annotated[int, Field(ge=1000)] = 200_000
    seed: int = 0
    """Decides what is drawn: order of batches, questions, held-out documents, LoRA's start. The
    same seed repeats a run."""

    @model_validator(mode="after")
    def _trains_in_full_precision(self, info: ValidationInfo) -> Self:
        recorded = info.context is not None and info.context.get("recorded")
        if self.model.dtype == "float16" and not recorded:
            raise ValueError(
                "model.dtype is float16, whose range is too small to train in; set dtype to "
                "float32 or bfloat16"
            )
        if self.model.quantization != "none":
            raise ValueError(
                f"model.quantization is {self.model.quantization}, and quantised weights cannot "
                "train; set it to none for unlearning"
            )
        return self

    @model_validator(mode="after")
    def _forgets_and_weighs_something(self, info: ValidationInfo) -> Self:
        """Refuse terms that switch each other off; a run that was made so stays readable."""
        if info.context is not None and info.context.get("recorded"):
            return self
        if self.gamma == 0 and self.alpha == 0:
            raise ValueError(
                "gamma and alpha are both 0: the loss would be 0 and nothing would train"
            )
        if self.gamma == 0:
            raise ValueError("gamma is 0: the forget term is off, so nothing would be unlearned")
        if self.alpha == 0 and self.weights.rule != "uniform":
            raise ValueError(
                "alpha is 0: there is no retain loss for the token weights to act on. Raise "
                "alpha, or choose the uniform rule"
            )
        return self

    @model_validator(mode="after")
    def _sets_what_the_method_has(self) -> Self:
        """Refuse a parameter of another method. `beta` stood in every file once and may stay."""
        method = METHODS[self.method]
        for name in PARAMETERS:
            if getattr(self, name) is None or name in method.parameters or name == "beta":
                continue
            has = ", ".join(method.parameters) or "no parameter of its own"
            raise ValueError(
                f"{name} is given and method is {self.method}, which has {has}. Leave {name} out, "
                "or choose the method it belongs to"
            )
        if not method.retains and self.weights.rule != "uniform":
            raise ValueError(
                f"method is {self.method}, which has no retain loss for the token weights to act "
                "on. Choose the uniform rule, or graddiff, which is the same with a retain loss"
            )
        if self.steering_layer is not None and not method.steers:
            raise ValueError(
                f"steering_layer is given and method is {self.method}, which works on predictions. "
                "Leave steering_layer out, or choose rmu"
            )
        if not method.retains and self.retain_term not in (None, "nll"):
            raise ValueError(
                f"method is {self.method}, which has no retain loss, and retain_term is "
                f"{self.retain_term}. Leave retain_term out, or choose another method"
            )
        return self

    @model_validator(mode="after")
    def _anchors_what_trains(self) -> Self:
        if self.anchor is not None and self.trainable.kind != "top_experts":
            raise ValueError(
                f"anchor is given and trainable.kind is {self.trainable.kind}: the anchor holds "
                "the routers of top_experts. Set trainable.kind to top_experts, or leave anchor out"
            )
        return self

    @model_validator(mode="after")
    def _controls_something(self) -> Self:
        """Refuse a control of what the run does not do."""
        if self.control == "none" or self.weights.rule != "uniform":
            return self
        if self.control != "random_experts":
            raise ValueError(
                f"control is {self.control} and weights.rule is uniform: there are no weights to "
                "control. Choose the rule that should be controlled, or set control to none"
            )
        if self.trainable.kind != "selected_experts":
            raise ValueError(
                "control is random_experts, and with the uniform rule and trainable.kind "
                f"{self.trainable.kind} no expert is selected for anything. Choose a weighting "
                "rule, train only the selected experts, or set control to none"
            )
        return self

    @model_validator(mode="after")
    def _judges_what_it_measures(self) -> Self:
        """Refuse thresholds of what the run does not measure on unseen data."""
        accuracies = ("forget_at_most", "utility_at_least")
        asked = self.evaluation.questions is not None
        for room, settings in (("stop", self.stop), ("keep", self.keep)):
            for name, value in settings.model_dump(exclude={"which"}).items():
                if value is None or (name in accuracies) == asked:
                    continue
                what = (
                    f"{room}.{name} is a held-out loss, and with evaluation.questions the loss is "
                    f"on documents that are trained on. Leave {room}.{name} out and give an "
                    "accuracy"
                    if asked
                    else f"{room}.{name} is an accuracy, and evaluation.questions is empty. Give "
                    f"questions, or a loss in {room}.forget_loss_at_least"
                )
                raise ValueError(what)
        return self

    @property
    def forget_weight(self) -> float:
        """gamma as set, or the method's default."""
        return METHODS[self.method].gamma if self.gamma is None else self.gamma

    @property
    def retain_weight(self) -> float:
        """alpha, or 0 for a method without a retain term."""
        return self.alpha if METHODS[self.method].retains else 0.0

    @property
    def anchor_weight(self) -> float:
        """The router anchor's weight: as set, 1 for the experts that forget text uses most, else
        0."""
        if self.trainable.kind != "top_experts":
            return 0.0
        return 1.0 if self.anchor is None else self.anchor

    @property
    def kept(self) -> RetainTerm:
        """The retain term as set, or the method's default."""
        return METHODS[self.method].retain_term if self.retain_term is None else self.retain_term

    def parameters(self) -> dict[str, float]:
        """The method's own parameters, as set or by its defaults."""
        defaults = METHODS[self.method].parameters
        given = {name: getattr(self, name) for name in defaults}
        return {
            name: default if given[name] is None else float(given[name])
            for name, default in defaults.items()
        }

    def profile_config(self) -> ProfileConfig:
        """The profile this run calibrates on."""
        return ProfileConfig(
            model=self.model,
            forget=self.forget,
            retain=self.retain,
            count_bos=self.count_bos,
            max_length=self.profile_max_length,
            sample_tokens=self.sample_tokens,
            seed=self.seed,
        )


AnyConfig = Annotated[ProfileConfig | UnlearnConfig, Field(discriminator="kind")]


def to_yaml(config: BaseModel) -> str:
    """The settings as YAML, every field written out, tuples as lists."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def identity_of(config: ProfileConfig | UnlearnConfig) -> dict[str, Any]:
    """What of the settings decides a result: all fields but labels, as JSON values.

    Resuming and recognising a launch go by it, in the launcher and in the loop alike.
    """
    data = config.model_dump(
        mode="json",
        exclude={"name": True, "trackers": True, "forget": {"label"}, "retain": {"label"}},
    )
    data |= {"model": config.model.asked()}
    if isinstance(config, UnlearnConfig):
        # Given and by default are the same run; files once held a beta whatever the method.
        data |= {"gamma": config.forget_weight} | config.parameters()
        data["beta"] = LEGACY_BETA if data["beta"] is None else data["beta"]
        if config.trainable.kind == "top_experts":
            data["anchor"] = config.anchor_weight
        data["retain_term"] = config.kept
        if config.kept == "nll":
            del data["retain_term"]
        # A run from before a field existed did what its default does, and resumes.
        _drop_defaults(data, UnlearnConfig, _LATER_RUN_FIELDS)
        _drop_defaults(data["weights"], WeightsConfig, _LATER_WEIGHTS_FIELDS)
        _drop_defaults(data["trainable"], TrainableConfig, _LATER_TRAINABLE_FIELDS)
    return data


def _drop_defaults(data: dict[str, Any], settings: type[BaseModel], names: frozenset[str]) -> None:
    for name in names:
        default = settings.model_fields[name].default
        if data[name] == (default.model_dump() if isinstance(default, BaseModel) else default):
            del data[name]


def parse_config(
    data: dict[str, Any], where: str = "settings", *, recorded: bool = False
) -> ProfileConfig | UnlearnConfig:
    """Validate a mapping; `kind` says whose settings it is. Raises InputError naming each field.

    `recorded`: see `read_config`.
    """
    kinds: dict[str, type[ProfileConfig] | type[UnlearnConfig]] = {
        "profile": ProfileConfig,
        "unlearn": UnlearnConfig,
    }
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a mapping of settings, found {type(data).__name__}.")
    kind = data.get("kind", "unlearn")
    if kind not in kinds:
        raise InputError(f"{where}: kind must be one of {', '.join(kinds)}, found {kind!r}.")
    try:
        return kinds[kind].model_validate(data, context={"recorded": recorded})
    except ValidationError as error:
        text = f"{where}: {describe(error, kinds[kind])}"
        if recorded and any(item["type"] == "extra_forbidden" for item in error.errors()):
            text += " A newer version of TRACE has it and wrote this file: open it with that one."
        raise InputError(text) from None


def read_config(path: str | Path, *, recorded: bool = False) -> ProfileConfig | UnlearnConfig:
    """Read a YAML settings file. Raises InputError when it is missing, not YAML, or refused.

    `recorded` settings are those of a run that exists: a combination that is refused by now is
    still what was computed.
    """
    path = Path(path)
    return parse_config(read_yaml(path), path.name, recorded=recorded)
