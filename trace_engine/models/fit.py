"""Whether stored tensors fit the configuration: by their headers beforehand, by what loading says.

The headers hold every tensor's name and shape, so a misfit is told without reading a weight:
transformers loads empty tensors of those shapes, with all its renaming and stacking, into the meta
device, and its report is judged.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import logging as reports

from trace_engine.errors import ModelError
from trace_engine.exhaustion import ran_out, says_so
from trace_engine.models.files import ModelFiles, stored_tensors

_LAYER_KEY = re.compile(r"(model\.)?(language_model\.)?(layers|blocks|h)\.(?P<layer>\d+)\.")
_EXPERT_KEY = re.compile(r"(?P<owner>.*experts\.)(?P<number>\d+)(?P<rest>\..+)")
_STACKED = "automatic conversion"
"""In transformers' words for experts that cannot be stacked."""


def check_headers(files: ModelFiles, shell: Any) -> None:
    """Refuse (ModelError) stored tensors that are missing or have another shape than `shell`'s.

    A checkpoint that is stored quantised is not compared: its tensors are the packed form's.
    """
    if "quantization_config" in files.config:
        return
    # Precision plays no part in what fits.
    stored = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape, _ in stored_tensors(files)
    }
    with loading(files):
        _, report = type(shell).from_pretrained(
            None,
            config=shell.config,
            state_dict=stored,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    refuse_misfit(files, report)


@contextmanager
def loading(files: ModelFiles) -> Iterator[None]:
    """Around transformers' loading: its reports stay off the terminal, its failures are one
    sentence (ModelError), and a lack of memory is a MemoryError."""
    before, said = reports.get_verbosity(), _Heard()
    reports.disable_default_handler()
    reports.add_handler(said)
    reports.set_verbosity(logging.WARNING)
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        if ran_out(error) or (_STACKED in str(error) and says_so(said.text)):
            raise MemoryError(first_line(error)) from None
        if _STACKED in str(error):
            # Experts are stored one by one and stacked; its own words are in a report on the log.
            if missing := missing_experts(files):
                raise ModelError(_misfit(files, missing, [], [])) from None
            raise ModelError(
                f"{files.source}: the tensors of its experts do not fit together: one is missing "
                "or has another shape. The weights do not belong to this configuration, or are "
                "incomplete."
            ) from None
        raise ModelError(
            f"{files.source}: transformers could not load the weights ({first_line(error)})."
        ) from None
    finally:
        reports.set_verbosity(before)
        reports.remove_handler(said)
        reports.enable_default_handler()


class _Heard(logging.Handler):
    """What transformers reports while it loads."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += record.getMessage()


def refuse_misfit(files: ModelFiles, report: Mapping[str, Any]) -> None:
    """Refuse (ModelError) what transformers reports of a loading, naming the first tensors."""
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(item[0]) for item in report["mismatched_keys"])
    extra = unknown_layers(report["unexpected_keys"], files.config)
    if mismatched and (experts := missing_experts(files)):
        # Fewer than all are stacked to a tensor of another shape.
        mismatched = [n for n in mismatched if not n.startswith(tuple(_owners(experts)))]
        missing = sorted([*missing, *experts])
    if missing or mismatched or extra:
        raise ModelError(_misfit(files, missing, mismatched, extra))


def _misfit(files: ModelFiles, missing: list[str], mismatched: list[str], extra: list[str]) -> str:
    names = ", ".join([*missing, *mismatched, *extra][:3])
    counts = (
        (len(missing), "missing"),
        (len(mismatched), "of another shape"),
        (len(extra), "of layers that there are not"),
    )
    said = ", ".join(f"{number} {what}" for number, what in counts if number)
    return (
        f"{files.source}: against config.json, tensors are wrong: {said} ({names}). The weights "
        "do not belong to this configuration, or are incomplete."
    )


def missing_experts(files: ModelFiles) -> list[str]:
    """Tensors of single experts that other experts have and these lack, by name, sorted.

    Told from the stored names alone (`...experts.7.down_proj.weight`); empty where experts are
    stored fused, or all alike.
    """
    stored: dict[tuple[str, str], set[int]] = defaultdict(set)
    for name, _, _ in stored_tensors(files):
        if at := _EXPERT_KEY.fullmatch(name):
            stored[at["owner"], at["rest"]].add(int(at["number"]))
    every = set().union(*stored.values())
    return sorted(
        f"{owner}{number}{rest}"
        for (owner, rest), numbers in stored.items()
        for number in every - numbers
    )


def _owners(experts: list[str]) -> set[str]:
    """What the names of these experts' stacked tensors begin with."""
    found = (_EXPERT_KEY.fullmatch(name) for name in experts)
    return {at["owner"] for at in found if at is not None}


def unknown_layers(unexpected: Iterable[str], settings: dict[str, Any]) -> list[str]:
    """Unexpected tensors of decoder layers that the configuration does not have.

    What families bring on purpose is no mismatch: towers are not numbered as a layer, and layers
    that predict further tokens follow the last one in the number that the configuration says.
    """
    text = settings.get("text_config") or settings
    last = int(text.get("num_hidden_layers") or 0)
    on_purpose = range(last, last + int(text.get("num_nextn_predict_layers") or 0))
    found = [(key, _LAYER_KEY.match(key)) for key in unexpected]
    return sorted(key for key, at in found if at and int(at.group("layer")) not in on_purpose)


def first_line(error: Exception) -> str:
    """What a package says first, as a part of a sentence of ours."""
    if isinstance(error, KeyError):
        return f"it does not know {str(error)[:80]}"
    if isinstance(error, (AttributeError, TypeError, ZeroDivisionError)):
        return f"a setting has a kind or value that its code cannot use: {str(error)[:120]}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    first = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return first.rstrip(".")
