"""Whether stored tensors fit the configuration: by their headers beforehand, by what loading says.

The headers hold every tensor's name and shape, so a misfit is told without reading a weight:
transformers loads empty tensors of those shapes, with all its renaming and stacking, into the meta
device, and its report is judged.
"""

from __future__ import annotations

import copy
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers.utils import logging as reports

from trace_engine.errors import ModelError
from trace_engine.exhaustion import ran_out, says_so
from trace_engine.models.files import ModelFiles, stored_tensors
from trace_engine.models.packed import unpacked
from trace_engine.models.sites import find_sites

_EXPERT_KEY = re.compile(r"(?P<owner>.*experts\.)(?P<number>\d+)(?P<rest>\..+)")
_DESTINED = re.compile(r"tensors destined for ([\w.]*\w)")
"""In transformers' words for what it was making of them."""
_FURTHER = "num_nextn_predict_layers"
_STACKED = "automatic conversion"
"""In transformers' words for experts that cannot be stacked."""


def check_headers(files: ModelFiles, shell: Any) -> None:
    """Refuse (ModelError) stored tensors that are missing, have another shape than `shell`'s, or
    belong to layers that it does not have.

    A checkpoint that is stored quantised is compared by what its tensors unpack to, as far as its
    form is known (`packed`).
    """
    found = unpacked(files)
    if found.missing or found.mismatched:
        raise ModelError(_misfit(files, found.missing, found.mismatched))
    # Precision plays no part in what fits.
    stored = {
        name: torch.empty(shape, dtype=torch.bfloat16, device="meta")
        for name, shape in found.shapes.items()
    }
    plain = copy.deepcopy(shell.config)
    if hasattr(plain, "quantization_config"):
        del plain.quantization_config
    with loading(files), _without_bar():
        _, report = type(shell).from_pretrained(
            None,
            config=plain,
            state_dict=stored,
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    refuse_misfit(files, report if found.whole else report | {"missing_keys": set()}, shell)


@contextmanager
def _without_bar() -> Iterator[None]:
    """Nothing is loaded, so no bar says "Loading weights"."""
    bars: Any = reports
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


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
            missing, mismatched = odd_experts(files)
            if missing or mismatched:
                raise ModelError(_misfit(files, missing, mismatched)) from None
            whole = _DESTINED.search(said.text)
            raise ModelError(
                f"{files.source}: the tensors that make up {whole[1] if whole else 'its experts'} "
                "do not fit together: one is missing or has another shape. The weights do "
                "not belong to this configuration, or are incomplete."
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


def refuse_misfit(files: ModelFiles, report: Mapping[str, Any], model: Any) -> None:
    """Refuse (ModelError) what transformers reports of loading `model` (or its shell), naming the
    first tensors."""
    missing = sorted(report["missing_keys"])
    mismatched = sorted(str(item[0]) for item in report["mismatched_keys"])
    beyond, homeless = out_of_place(report["unexpected_keys"], model)
    if mismatched and (experts := odd_experts(files)[0]):
        # Fewer than all are stacked to a tensor of another shape.
        mismatched = [n for n in mismatched if not n.startswith(tuple(_owners(experts)))]
        missing = sorted([*missing, *experts])
    if "quantization_config" in files.config:
        homeless = []  # scales and the like, under names that every form has its own of
    if missing or mismatched or beyond or homeless:
        raise ModelError(_misfit(files, missing, mismatched, beyond, homeless))


def _misfit(
    files: ModelFiles,
    missing: list[str],
    mismatched: list[str],
    beyond: Sequence[str] = (),
    homeless: Sequence[str] = (),
) -> str:
    names = ", ".join([*missing, *mismatched, *beyond, *homeless][:3])
    counts = (
        (len(missing), "missing"),
        (len(mismatched), "of another shape"),
        (len(beyond), "of layers that there are not"),
        (len(homeless), "that the model has no place for"),
    )
    said = ", ".join(f"{number} {what}" for number, what in counts if number)
    return (
        f"{files.source}: against config.json, tensors are wrong: {said} ({names}). The weights "
        "do not belong to this configuration, or are incomplete."
    )


def odd_experts(files: ModelFiles) -> tuple[list[str], list[str]]:
    """Tensors of single experts that other experts have and these lack, and those of another shape
    than most of their kind, by name, sorted.

    Told from what is stored alone (`...experts.7.down_proj.weight`); empty where experts are
    stored fused, or all alike.
    """
    stored: dict[tuple[str, str], dict[int, tuple[int, ...]]] = defaultdict(dict)
    for name, shape, _ in stored_tensors(files):
        if at := _EXPERT_KEY.fullmatch(name):
            stored[at["owner"], at["rest"]][int(at["number"])] = shape
    # Identity experts have some tensors only (LongCat), so other layers are asked first.
    kinds: dict[str, set[int]] = defaultdict(set)
    for (_, rest), shapes in stored.items():
        kinds[rest] |= shapes.keys()
    every: set[int] = set().union(*kinds.values())
    missing = _absent(stored, kinds) or _absent(stored, dict.fromkeys(kinds, every))
    mismatched = []
    for (owner, rest), shapes in stored.items():
        [(usual, _)] = Counter(shapes.values()).most_common(1)
        mismatched += [f"{owner}{n}{rest}" for n, shape in shapes.items() if shape != usual]
    return missing, sorted(mismatched)


def _absent(
    stored: Mapping[tuple[str, str], Mapping[int, Any]], expected: Mapping[str, set[int]]
) -> list[str]:
    return sorted(
        f"{owner}{number}{rest}"
        for (owner, rest), found in stored.items()
        for number in expected[rest] - found.keys()
    )


def _owners(experts: list[str]) -> set[str]:
    """What the names of these experts' stacked tensors begin with."""
    found = (_EXPERT_KEY.fullmatch(name) for name in experts)
    return {at["owner"] for at in found if at is not None}


def out_of_place(unexpected: Iterable[str], model: Any) -> tuple[list[str], list[str]]:
    """Of the tensors that the model does not expect, those of decoder layers that it does not have,
    and those inside its layers or modules all the same.

    The others are parts that a family brings on purpose and text does without. Layers that predict
    further tokens are no misfit either: they follow the last one, in the number that the
    configuration says, and hold what no decoder layer does (`eh_proj`, `enorm`, `shared_head`).
    """
    lists = {site.layers_name: model.get_submodule(site.layers_name) for site in find_sites(model)}
    further = int(getattr(model.config.get_text_config(), _FURTHER, None) or 0)
    beyond: dict[tuple[str, int], list[str]] = defaultdict(list)
    homeless = []
    for key in sorted(unexpected):
        at = next((at for name in lists if (at := _in_layer(name, key))), None)
        if at is not None and int(at["layer"]) >= len(lists[at["list"]]):
            beyond[at["list"], int(at["layer"])].append(key)
        elif at is not None or _is_beside_others(key, model):
            homeless.append(key)
    extra = []
    for (name, layer), keys in beyond.items():
        parts = {
            part for decoder_layer in lists[name] for part, _ in decoder_layer.named_children()
        }
        own = {key.removeprefix(f"{name}.{layer}.").split(".")[0] for key in keys} - parts
        if not own or layer >= len(lists[name]) + further:
            extra += keys
    return extra, homeless


def _in_layer(name: str, key: str) -> re.Match[str] | None:
    return re.match(rf"(?P<list>{re.escape(name)})\.(?P<layer>\d+)\.", key)


def _is_beside_others(key: str, model: Any) -> bool:
    """Whether the tensor would stand in a module that has tensors, such as the bias of a layer that
    has a weight alone."""
    owner = key.rpartition(".")[0]
    try:
        module = model.get_submodule(owner)
    except AttributeError:
        return False
    return bool(owner) and next(module.parameters(recurse=False), None) is not None


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
