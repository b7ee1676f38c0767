"""What the files of a run may hold: the shapes that lists, pages and commands take for granted.

A run's folder may come from a stranger, or from a disk that lost bytes; so its values are looked at
once, where they are read. What nobody computes with may be anything, and what is unknown is left
alone: a later version may add to it.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, model_validator

_MOST = 2**53
"""Above it a float no longer tells one whole number from the next."""
_LATEST = 253402300799.0
"""The last second of the year 9999, beyond which no calendar goes."""
Count = Annotated[int, Field(ge=0, le=_MOST)]
Time = Annotated[float, Field(ge=0, le=_LATEST)]
_Cell = Annotated[list[Count], Field(min_length=2, max_length=2)]


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True)

    @classmethod
    def require(cls, data: Any) -> None:
        """Raise ValueError unless the data has the shape, and every text of it can be shown."""
        cls.model_validate(data)
        # Half of a surrogate pair passes as text, and neither a terminal nor a page takes it.
        json.dumps(data, ensure_ascii=False).encode()


class _Process(_Shape):
    pid: Annotated[int, Field(ge=0, lt=2**31)]
    started: Time


class _Status(_Shape):
    state: str
    message: str = ""
    attempt: Count = 1
    step: Count = 0
    max_steps: Count = 0
    notes: list[str] = []
    process: _Process | None = None
    created: Time = 0.0
    updated: Time = 0.0
    started: Time = 0.0


class _Progress(_Shape):
    phase: str
    done: Count
    total: Count
    unit: str
    per_second: FiniteFloat | None
    eta_seconds: FiniteFloat | None


class _Event(_Shape):
    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    time: str
    event: str
    attempt: Count | None = None
    step: Count | None = None
    message: str | None = None
    peak_memory: FiniteFloat | None = None


class _Estimate(_Shape):
    value: float | None
    low: float | None
    high: float | None
    n: Count | None = None


class _Accuracy(_Estimate):
    value: Annotated[float, Field(ge=0, le=1)] | None


class _Drift(_Shape):
    layers: list[Count]
    overlap: list[float | None]
    low: list[float | None] | None = None
    high: list[float | None] | None = None
    n: Count | None = None
    unit: str | None = None

    @model_validator(mode="after")
    def _one_a_layer(self) -> Self:
        for shares in (self.overlap, self.low, self.high):
            if shares is not None and len(shares) != len(self.layers):
                raise ValueError("one share a layer is expected")
        return self


class _Evaluation(_Shape):
    accuracy: dict[str, _Accuracy] | None = None
    forget_nll: _Estimate | None = None
    retain_nll: _Estimate | None = None
    drift: _Drift | None = None
    picked: dict[str, int] | None = None


class _Sentence(_Shape):
    sentence: str | None = None


class _Side(_Shape):
    name: str | None = None
    measured_on: Count


class _Trainable(_Shape):
    parameters: Count
    total: Count
    share: FiniteFloat
    kind: str
    whole_gradients: list[str] = []


class _Selection(_Shape):
    cells: list[_Cell] = []


class _Method(_Shape):
    layer: Count | None = None


class _Weights(_Shape):
    rule: str | None = None
    diagnostics: dict[str, JsonValue] | None = None


class _Overlap(_Shape):
    count: Count
    forget_total: Count
    retain_total: Count


class _Kept(_Sentence):
    step: Count


class _Identity(_Shape):
    config: dict[str, JsonValue] | None = None
    model: str | None = None


class _Facts(_Shape):
    anchor: _Sentence | None = None
    beta_note: str | None = None
    control: _Sentence | None = None
    ended: str | None = None
    forget: _Side | None = None
    identity: _Identity = _Identity()
    kept: _Kept | None = None
    knowledge: _Sentence | None = None
    loss_curve: str | None = None
    method: _Method | None = None
    model: dict[str, JsonValue] | None = None
    overlap: _Overlap | None = None
    profile_key: str | None = None
    questions: dict[str, JsonValue] | None = None
    retain: _Side | None = None
    selection: _Selection | None = None
    trainable: _Trainable | None = None
    versions: dict[str, JsonValue] | None = None
    warmup: str | None = None
    weights: _Weights | None = None


class _Launched(_Shape):
    folder: str | None = None
    question: str | None = None
    token: str | None = None
    sweep: str | None = None
    owner: str | None = None


def require_status(data: Any) -> None:
    """Raise ValueError unless it is what a worker or launcher writes to status.json."""
    _Status.require(data)


def require_progress(data: Any) -> None:
    """Raise ValueError unless it is a `Progress`."""
    _Progress.require(data)


def require_event(data: Any) -> None:
    """Raise ValueError unless it is an event."""
    _Event.require(data)


def require_facts(data: Any) -> None:
    """Raise ValueError unless it is what a run finds out before and after training."""
    _Facts.require(data)


def require_launched(data: Any) -> None:
    """Raise ValueError unless it is what a launcher writes to launch.json."""
    _Launched.require(data)


def require_row(row: Mapping[str, Any]) -> None:
    """Raise KeyError or ValueError unless it is a row of metrics.jsonl; there can be 100,000."""
    kind, step = row["kind"], row["step"]
    if type(kind) is not str or type(step) is not int or not 0 <= step <= _MOST:
        raise ValueError("a row has a kind and a step")
    if kind == "eval":
        _Evaluation.require(row)
