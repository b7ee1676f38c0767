"""A profile's and a run's settings, and which combinations of them cannot be."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from trace_engine.config.base import Settings
from trace_engine.config.parts import (
    EvaluationConfig,
    KeepConfig,
    ModelConfig,
    SelectionConfig,
    SetConfig,
    StopConfig,
    TrainableConfig,
    WeightsConfig,
)
from trace_engine.methods import METHODS, PARAMETERS, MethodName, RetainTerm

TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class ProfileConfig(Settings):
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


class UnlearnConfig(Settings):
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
    """AdamW's: the share, times the learning rate, by which each step shrinks what trains."""
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
