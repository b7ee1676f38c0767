"""The model picker: bundled, a folder, or a hub id, how to load it, and what is known about it.

The page itself reads `config.json` and file names only; it never opens weights, and never asks the
hub. Accepted trade-off: whether a folder's routers can be tapped is only known once the model has
been inspected, in a process of its own and when asked (`inspection_view`).
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import streamlit as st

from app import house, inspection_view, state, wording
from trace_engine.bundled import MODELS, resolve_source
from trace_engine.config import ModelConfig
from trace_engine.disk import parse_json
from trace_engine.errors import InputError
from trace_engine.spelling import size

LOADING = {
    "dtype": "Precision",
    "experts_implementation": "Experts implementation",
    "quantization": "Quantisation",
}
"""The settings of loading that the page offers; the device is the machine's business."""
KINDS = ("Bundled", "Folder", "Hub id")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
_EXPERTS = {
    "experts per layer": (
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
    ),
    "experts per token": (
        "num_experts_per_tok",
        "num_experts_per_token",
        "experts_per_token",
        "moe_topk",
        "moe_top_k",
        "moe_k",
    ),
    "shared experts": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
}
"""What a model's settings say of its experts, and the names that model families have for it."""
_LARGEST_CONFIG = 2_000_000


@dataclass(frozen=True, slots=True)
class ModelNote:
    """What can be said about a model without opening it."""

    problem: str | None
    """Why it cannot be used, or None."""
    facts: tuple[str, ...]
    """What its configuration says, or what is only known later."""


def read_folder(source: str) -> ModelNote:
    """Look at a folder (or `demo:` name): its configuration and its weights' file names."""
    try:
        folder = Path(resolve_source(source)).expanduser()
    except InputError as error:
        return ModelNote(str(error), ())
    # os.path says no to names that are too long or hold NUL, where Path raises.
    if not os.path.isdir(folder):
        return ModelNote(f"There is no folder {source[:200]!r}. Nothing was launched.", ())
    config_file = folder / "config.json"
    if not config_file.is_file():
        return ModelNote(f"{source!r} holds no config.json, so it is not a model folder.", ())
    if config_file.stat().st_size > _LARGEST_CONFIG:
        return ModelNote(f"{source!r}: config.json is larger than 2 MB; no model's is.", ())
    try:
        config = parse_json(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        return ModelNote(f"{source!r}: config.json is not readable JSON ({error}).", ())
    if not isinstance(config, dict):
        return ModelNote(f"{source!r}: config.json holds no settings.", ())
    names = [path.name for path in folder.iterdir()]
    if not any(name.endswith(".safetensors") for name in names):
        pickled = sorted(name for name in names if name.endswith(_PICKLED))
        if pickled:
            return ModelNote(
                f"{source!r} holds only pickled weights ({pickled[0]}), which can run code when "
                "opened and are refused. Save the model as safetensors.",
                (),
            )
        return ModelNote(f"{source!r} holds no *.safetensors weights.", ())
    if "auto_map" in config and "model_type" not in config:
        return ModelNote(f"{source!r} needs code from its own folder, which is never run.", ())
    return ModelNote(None, _facts(config, folder))


def _facts(config: dict[str, Any], folder: Path) -> tuple[str, ...]:
    inner = config.get("text_config")
    settings = {**config, **inner} if isinstance(inner, dict) else config
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    architecture = config.get("architectures")
    facts = [
        str(architecture[0]) if isinstance(architecture, list) and architecture else "unnamed type",
        f"{settings.get('num_hidden_layers', 'unknown number of')} decoder layers",
        f"weights of {size(weights)}",
    ]
    counts = [(words, _count(settings, names)) for words, names in _EXPERTS.items()]
    unknown = (
        "its settings name experts in words of their own; the worker counts them"
        if any("expert" in name for name in settings)
        else "its settings name no experts; a dense model is refused when the worker opens it"
    )
    facts += [
        f"{count} {words.replace('experts', 'expert') if count == 1 else words}"
        for words, count in counts
        if count is not None
    ] or [unknown]
    return tuple(facts)


def _count(settings: dict[str, Any], names: tuple[str, ...]) -> int | None:
    """The first whole number above 0 that stands under one of these names."""
    for name in names:
        value = settings.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None


def picker() -> tuple[ModelConfig | None, str | None]:
    """Draw the picker; the chosen model and None, or None and the reason why there is none."""
    kinds = KINDS[:1] if house.rules().read_only else KINDS
    kind = state.bound("model_kind", kinds[0], kinds)
    st.segmented_control(
        "Where is the model?", kinds, key="model_kind", required=True, label_visibility="collapsed"
    )
    if kind == "Bundled":
        present = [name for name in MODELS if read_folder(f"demo:{name}").problem is None]
        if not present:
            return None, "This checkout has no bundled model."
        state.bound("model_name", present[0], present)
        source = "demo:" + st.selectbox(
            "Bundled model",
            present,
            format_func=lambda name: wording.MODEL_NAMES.get(f"demo:{name}", name),
            key="model_name",
        )
    else:
        source = _typed(kind)
        if not source:
            return None, "No model is named yet."
        if kind == "Hub id":
            if not _HUB_ID.fullmatch(source):
                return None, f"{source[:100]!r} is not a hub id. It looks like owner/name."
            st.caption(
                "The worker fetches it (that needs a network), reads safetensors only, and never "
                "runs code from the hub."
            )
            revision = st.text_input("Revision (optional)", key="model_revision").strip() or None
            chosen = _loading(source, revision)
            st.caption(
                "Inspecting a hub model fetches its configuration and tokenizer; of its weights "
                "only sizes and headers."
            )
            return _unless_refused(chosen)
    note = read_folder(source)
    if note.problem is not None:
        return None, note.problem
    st.caption(wording.plain(" · ".join(note.facts)))
    chosen = _loading(source)
    return _unless_refused(chosen)


def _unless_refused(chosen: ModelConfig) -> tuple[ModelConfig | None, str | None]:
    """Draw the inspection; what it refused is not offered for profiling."""
    refusal = inspection_view.panel(chosen)
    return (chosen, None) if refusal is None else (None, refusal)


def _loading(source: str, revision: str | None = None) -> ModelConfig:
    """Precision and speed, for those who want another than the checkpoint's own."""
    fields = ModelConfig.model_fields
    with st.expander("How it is loaded", icon=":material/memory:"):
        columns = st.columns(3, vertical_alignment="bottom")
        picked = {}
        for column, (name, label) in zip(columns, LOADING.items(), strict=True):
            choices = get_args(fields[name].annotation)
            state.bound(f"model_{name}", fields[name].default, choices)
            picked[name] = column.selectbox(
                label, choices, key=f"model_{name}", help=fields[name].description
            )
        if picked["quantization"] != "none":
            st.caption("Quantised weights can be profiled and evaluated, not trained.")
    return ModelConfig.model_validate({"source": source, "revision": revision, **picked})


def _typed(kind: str) -> str:
    folder = kind == "Folder"
    typed = st.text_input(
        "Model folder" if folder else "Hub id",
        key="model_folder" if folder else "model_hub",
        max_chars=1000,
        placeholder="/path/to/model" if folder else "owner/name",
        persist_state="session",
    )
    return typed.strip()
