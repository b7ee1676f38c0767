"""Opens a model through transformers and says what it is: sites, experts, precision, fingerprint.

A model that cannot serve is refused before its weights are loaded: its empty shell is built on the
meta device and searched for routed experts first. `experts_implementation: auto` follows a rule
measured once (below), never a measurement at run time, so that the same settings give the same
bits.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoTokenizer
from transformers.core_model_loading import build_glob_alternation

from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models.families import SEE, UNTAPPED, loader_for
from trace_engine.models.files import (
    ModelFiles,
    fetched,
    file_hashes,
    fingerprint,
    locate,
    stored_dtype,
    weights_size,
)
from trace_engine.models.fit import check_headers, first_line, loading, refuse_misfit
from trace_engine.models.info import ModelInfo, OpenModel, precision
from trace_engine.models.memory import (
    MemoryNeed,
    enough_memory,
    machine_memory,
    memory_need,
    require_memory,
)
from trace_engine.models.parts import expert_size, layer_sizes, lora_size, router_size
from trace_engine.models.probe import NOT_WITHOUT_DATA, asks_for_values
from trace_engine.models.quantised import (
    check_stored,
    forget_unpacking,
    quantised_options,
    stored_as,
    unpacking_options,
)
from trace_engine.models.settings import check_settings, chosen_per_token
from trace_engine.models.site import Site
from trace_engine.models.sites import experts_per_token, find_sites
from trace_engine.stored import stays_packed

_ROUTES = re.compile(r"([Ee]xperts?|[Rr]outer|MoE|M[oO][eE]Block|^moe)$")
"""How the name of a module's class, or its own, ends when it routes or holds experts."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def open_model(config: ModelConfig, *, hashed: bool = True) -> OpenModel:
    """Load a model from a folder, a hub id or a `demo:` name, ready to be tapped.

    Without `hashed`, the files are not hashed, and its facts have no fingerprint. A trial of the
    experts that is asked for is made here, unless `models.settle` made it before.
    Raises ModelError, with a sentence of its own, for everything `inspect_model` refuses, for a
    machine with too little free memory or disk (before a weight is fetched or read), for
    quantisation, of the settings or the checkpoint, without its package, and for weights that do
    not fit the architecture.
    """
    # The trial looks at a model by what is here, so it cannot be imported before.
    from trace_engine.models.trial import settle

    config, _ = settle(config, training=False)
    files = locate(config.source, config.revision)
    shell = outline(files, config)
    check_stored(files)
    check_headers(files, shell)
    experts = experts_implementation(config, shell)
    sites = find_sites(shell)
    # K does not matter for the weights.
    none_chosen = (0,) * len(sites)
    need = memory_need(
        shell,
        sites,
        none_chosen,
        quantization=config.quantization,
        mapped=weights_size(files),
        packed=stays_packed(files.config),
    )
    place = choose_place(config.device, need)
    require_memory(files.source, need, place, config)
    quantised = quantised_options(config, shell)
    files = fetched(files)
    options = unpacking_options(files) | quantised
    with enough_memory(files.source, need, place, config):
        model = _load(files, precision(shell), experts, place, options)
    model.eval()
    found = find_sites(model)
    try:
        info = describe(
            files, model, found, config, place, experts, parameters=count(shell), hashed=hashed
        )
    except NOT_WITHOUT_DATA as error:
        raise ModelError(why_no_forward(files, model, error)) from None
    return OpenModel(model, open_tokenizer(files, model), found, info)


def inspect_model(config: ModelConfig) -> ModelInfo:
    """What a model is, without loading its weights: the shell is built on the meta device.

    Falls back to loading the model, if memory allows, where even its routed blocks cannot run
    without values (no type of the installed transformers). Raises ModelError for
    a source that is missing, damaged, pickled, gated, offline or needs remote code (see
    `files.locate`), for an encoder-decoder, a dense model, a family whose routing cannot be tapped,
    for quantisation, of the settings or the checkpoint, without its package, and for weights or a
    tokenizer that do not fit the configuration.
    """
    files = locate(config.source, config.revision)
    shell = outline(files, config)
    check_stored(files)
    quantised_options(config, shell)
    check_headers(files, shell)
    open_tokenizer(files, shell)
    experts = experts_implementation(config, shell)
    sites = find_sites(shell)
    need = memory_need(
        shell,
        sites,
        (0,) * len(sites),
        quantization=config.quantization,
        mapped=weights_size(files),
        packed=stays_packed(files.config),
    )
    place = choose_place(config.device, need)
    try:
        return describe(files, shell, sites, config, place, experts)
    except NOT_WITHOUT_DATA as error:
        if not asks_for_values(error):
            raise ModelError(why_no_forward(files, shell, error)) from None
        return open_model(config).info


def why_no_forward(files: ModelFiles, model: Any, error: Exception) -> str:
    """Why a first forward of two tokens fails, which no loading would change."""
    chosen = chosen_per_token(model.config.get_text_config())
    # The words of two devices for a top-k of more than there are.
    if any(words in str(error) for words in ("index k out of range", "k not in range")) or (
        chosen is not None and chosen[1] < 1
    ):
        said = "" if chosen is None else f" ({chosen[0]} is {chosen[1]})"
        return (
            f"{files.source}: config.json lets every token choose a number of experts that no "
            f"layer has{said}."
        )
    kept = [name for name, p in model.named_parameters() if p.dtype == torch.float32]
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if "dtype" in str(error) and len(dtypes) > 1:
        return (
            f"{files.source} does not run in {_spelled(dtypes - {torch.float32})}: transformers "
            f"keeps {len(kept)} of its tensors in float32 ({kept[0]}), and the code of "
            f"{model.config.model_type} does not convert between the two. Set dtype to another "
            "precision."
        )
    return (
        f"{files.source}: a first forward fails ({first_line(error)}), so config.json does not "
        "describe a model that runs."
    )


def keep_float32(shell: Any, dtype: torch.dtype) -> None:
    """Give the shell's tensors the precision that loading will: some families keep a few, such as
    a router's bias, in float32 whatever is asked for."""
    plan = shell._get_dtype_plan(dtype)
    if not plan:
        return
    kept, _, _ = build_glob_alternation(list(plan))
    for name, tensor in chain(shell.named_parameters(), shell.named_buffers()):
        if tensor.is_floating_point() and kept.search(name):
            tensor.data = tensor.data.float()


def _spelled(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))


def backbone(model: Any) -> nn.Module:
    """The model without its `lm_head`: token ids in, last hidden states (B, S, D) out."""
    inner = model.base_model
    if inner is model:
        # Llama 4's prefix names no module of it, and a wrapper may hold a whole language model.
        words = model.get_input_embeddings()
        parts = (c for c in model.children() if any(m is words for m in c.modules()))
        inner = getattr(next(parts, model), "base_model", model)
    if not isinstance(inner, nn.Module) or inner is model:
        raise ModelError(
            f"{type(model).__name__} has no backbone that can run without its output head."
        )
    return inner


def outline(files: ModelFiles, config: ModelConfig) -> Any:
    """The model's shell on the meta device, in the precision that loading would give; no weight is
    read."""
    source = files.source
    check_settings(source, files.config)
    try:
        settings = AutoConfig.from_pretrained(files.folder, local_files_only=True)
    except Exception as error:  # whatever strange settings make a configuration class raise
        raise ModelError(
            f"{source}: its config.json is refused by transformers ({first_line(error)})."
        ) from None
    if getattr(settings, "is_encoder_decoder", False):
        raise ModelError(
            f"{source} is an encoder-decoder ({settings.model_type}), and TRACE works on "
            f"decoder-only language models. {SEE}"
        )
    if settings.model_type in UNTAPPED:
        raise ModelError(
            f"{source} ({settings.model_type}) has routed experts, but TRACE cannot tap its "
            f"routing yet: {UNTAPPED[settings.model_type]}."
        )
    build = loader_for(settings.model_type)
    if build is None:
        raise ModelError(f"{source} ({settings.model_type}) is not a causal language model. {SEE}")
    dtype = _dtype(files, config, settings)
    try:
        with torch.device("meta"):
            shell = build.from_config(settings, dtype=dtype)
    except Exception as error:  # as above: any layer may trip over a setting
        raise ModelError(
            f"{source}: transformers cannot build this model ({first_line(error)})."
        ) from None
    shell.eval()
    keep_float32(shell, dtype)
    sites = find_sites(shell)
    if not sites or any(site.num_experts < 1 for site in sites):
        raise ModelError(_no_sites(source, settings, shell))
    return shell


def _no_sites(source: str, settings: Any, shell: nn.Module) -> str:
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    declared = [
        name for name in counts if isinstance(v := getattr(text, name, None), int) and v > 1
    ]
    if declared:
        routing = (
            f"{name} ({type(module).__name__})"
            for name, module in shell.named_modules()
            if _ROUTES.search(type(module).__name__) or _ROUTES.search(name.rpartition(".")[2])
        )
        module = next(routing, None)
        how = (
            f"{module} routes to them in a way that TRACE cannot tap"
            if module
            else (f"no module of {type(shell).__name__} routes to them")
        )
        return (
            f"{source} ({settings.model_type}) declares {getattr(text, declared[0])} experts, but "
            f"{how}. {SEE}"
        )
    return (
        f"No routed experts found in {source} ({settings.model_type}): it is a dense model, and "
        f"TRACE works on mixtures of experts. {SEE}"
    )


def experts_implementation(config: ModelConfig, shell: Any) -> str:
    """`auto`: `grouped_mm` wherever the architecture lets it be set, else the model's own `eager`.

    Measured on CPU (torch 2.13, one thread, OLMoE shapes, forward and backward, eager / grouped_mm
    in ms): 8 experts 11.5 / 9.1, 16: 61 / 58, 32: 87 / 60, 64: 343 / 90, 128: 871 / 143; hidden
    512, 32 experts: 6503 / 980. A bare forward favours eager by 20-30 % at 16 to 32 experts and
    grouped_mm from 64 on; one rule for both keeps a profile's bits those of the training.
    `batched_mm` is never taken by itself. `trial` is told as `auto` until it is settled.
    """
    can_set = bool(type(shell)._can_set_experts_implementation())
    if config.experts_implementation in ("auto", "trial"):
        return "grouped_mm" if can_set else "eager"
    if config.experts_implementation != "eager" and not can_set:
        raise ModelError(
            f"{config.source}: {type(shell).__name__} has only its own experts code; set "
            "experts_implementation to auto or eager."
        )
    return config.experts_implementation


def choose_place(name: str, need: MemoryNeed) -> str:
    """Where the weights go: `cpu`, one GPU, or `spread` over all GPUs and main memory.

    `auto` spreads (accelerate's `device_map="auto"`) only what no single GPU has room for. Raises
    ModelError for a device that this machine lacks.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        free = machine_memory().devices
        roomiest = max(range(len(free)), key=free.__getitem__)
        if need.loading > free[roomiest]:
            return "spread"
        return "cuda" if need.loading <= free[0] else f"cuda:{roomiest}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ModelError(
            f"TRACE does not run on device {name[:40]!r}: set device to auto, cpu, cuda, or "
            "cuda:1 (a GPU's number)."
        )
    if device.type == "cpu":
        return "cpu"
    if (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(f"This machine has no device {name}; set device to cpu or auto.")
    return str(device)


def _dtype(files: ModelFiles, config: ModelConfig, settings: Any) -> torch.dtype:
    """The precision that loading will give: as set, as config.json says, or as the file holds."""
    text = settings.get_text_config() if hasattr(settings, "get_text_config") else settings
    said = getattr(settings, "dtype", None) or getattr(text, "dtype", None)
    stored = stored_dtype(files)
    if stored is None and "quantization_config" not in files.config:
        raise ModelError(
            f"{files.source}: {files.weights[0]} holds no floating-point tensor, and config.json "
            "does not say how it was quantised."
        )
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    name = str(said or stored or "float32").removeprefix("torch.")
    if name not in DTYPES:
        raise ModelError(
            f"{files.source} is saved in {name[:40]}, and TRACE computes in {', '.join(DTYPES)}. "
            "Set dtype to one of them."
        )
    return DTYPES[name]


def _load(
    files: ModelFiles, dtype: torch.dtype, experts: str, place: str, options: dict[str, Any]
) -> Any:
    if place == "spread":
        options = options | {"device_map": "auto"}
    elif place != "cpu":
        options = options | {"device_map": {"": torch.device(place)}}
    with loading(files):
        settings = AutoConfig.from_pretrained(files.folder, local_files_only=True)
        loader: Any = loader_for(settings.model_type)
        model, report = loader.from_pretrained(
            files.folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            # Tensors of another shape are refused below, by name.
            ignore_mismatched_sizes=True,
            **options,
        )
    refuse_misfit(files, report, model)
    if stored_as(files):
        forget_unpacking(model)
    if type(model)._can_set_experts_implementation():
        # Not an option of loading, which every part must know: a tower for images does not.
        model.set_experts_implementation(experts)
    return model


def open_tokenizer(files: ModelFiles, model: Any) -> Any:
    """The model's tokenizer. Raises ModelError for one that is missing, or has more tokens than the
    model (or its shell) has embeddings."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{files.source}: its tokenizer could not be opened ({first_line(error)}). Put the "
            "tokenizer's files beside config.json."
        ) from None
    # Where the files are missing, transformers hands out a tokenizer without a vocabulary.
    if not tokenizer("text", add_special_tokens=False)["input_ids"]:
        raise ModelError(
            f"{files.source} has no usable tokenizer: it turns text into nothing. Put the "
            "tokenizer's files beside config.json."
        )
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > rows:
        raise ModelError(
            f"{files.source}: its tokenizer has {len(tokenizer)} tokens and the model {rows}, so "
            "it belongs to another model."
        )
    return tokenizer


def count(model: nn.Module) -> int:
    """Numbers in the model; 4-bit weights are packed, so it is asked of the shell."""
    return sum(p.numel() for p in model.parameters())


def describe(
    files: ModelFiles,
    model: Any,
    sites: list[Site],
    config: ModelConfig,
    place: str,
    experts: str,
    *,
    parameters: int | None = None,
    hashed: bool = True,
) -> ModelInfo:
    """The model's facts; without `hashed` its files are not read, and there is no fingerprint."""
    hashes = file_hashes(files) if hashed else {}
    text = model.config.get_text_config()
    return ModelInfo(
        source=files.source,
        revision=files.revision,
        architecture=type(model).__name__,
        model_type=model.config.model_type,
        parameters=count(model) if parameters is None else parameters,
        layers=tuple(site.layer for site in sites),
        num_experts=tuple(site.num_experts for site in sites),
        experts_per_token=experts_per_token(model, sites),
        expert_parameters=tuple(expert_size(site) for site in sites),
        shared_experts=any(
            "shared" in name.rsplit(".", 1)[-1] for name, _ in model.named_modules()
        ),
        dtype=str(precision(model)).removeprefix("torch."),
        device=place,
        experts_implementation=experts,
        vocab_size=int(text.vocab_size),
        fingerprint=fingerprint(hashes) if hashed else "",
        files=hashes,
        quantization=config.quantization,
        stored_as=stored_as(files),
        router_parameters=tuple(router_size(site) for site in sites),
        layer_parameters=layer_sizes(model, sites),
        lora_parameters_per_rank=lora_size(model, sites),
    )
