"""What forbids a run before its directory is made, told from files and settings alone.

Whatever needs the model itself is refused by the worker. Trade-off: a hub model that was never
fetched is not looked at here.
"""

from pathlib import Path
from typing import Any

from trace_engine.adapters import INSTEAD, NO_ADAPTERS, WITHOUT_ADAPTERS
from trace_engine.bundled import resolve_source
from trace_engine.config import ModelConfig, ProfileConfig, UnlearnConfig
from trace_engine.disk import parse_json
from trace_engine.errors import InputError, ModelError, TraceError
from trace_engine.regular import read_text
from trace_engine.stored import why_no_training


def why_not(config: ProfileConfig | UnlearnConfig) -> str | None:
    """Why a run of these settings would be refused, or None."""
    if not isinstance(config, UnlearnConfig):
        return None
    settings = _settings(config.model)
    reason = why_no_training(config.model.source, settings)
    if reason is not None:
        return reason
    model_type = str(settings.get("model_type"))
    if config.trainable.kind != "lora" or model_type not in WITHOUT_ADAPTERS:
        return None
    return f"{config.model.source} ({model_type}): {NO_ADAPTERS}. {INSTEAD}"


def require_possible(config: ProfileConfig | UnlearnConfig) -> None:
    """Raise ModelError where `why_not` has a reason."""
    reason = why_not(config)
    if reason is not None:
        raise ModelError(f"{reason} No run was made.")


def require_one_way(model: ModelConfig, what: str) -> None:
    """Raise InputError where runs that are compared would each time the experts for themselves."""
    if model.experts_implementation == "trial":
        raise InputError(
            f"The runs of a {what} are compared, and with experts_implementation trial each might "
            "multiply its experts in another way. Name one: `trace-moe inspect --trial` times them."
        )


def _settings(model: ModelConfig) -> dict[str, Any]:
    """The model's config.json; empty where there is none to read here."""
    # Imported late: the command says that bars stay off, and the library asks when it is imported.
    from huggingface_hub import try_to_load_from_cache

    try:
        path = Path(resolve_source(model.source)).expanduser() / "config.json"
        if not path.is_file():
            cached = try_to_load_from_cache(model.source, "config.json", revision=model.revision)
            if not isinstance(cached, str):
                return {}
            path = Path(cached)
        settings = parse_json(read_text(path))
    except (TraceError, OSError, ValueError):  # a name that the hub cannot have is a ValueError
        return {}  # the worker refuses it with a sentence of its own
    return settings if isinstance(settings, dict) else {}
