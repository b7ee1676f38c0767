"""`trace-moe inspect`: what a model is and where it routes, without loading its weights into
memory."""

import argparse

from trace_engine.cli.options import read_model
from trace_engine.cli.output import emit_json, print_table
from trace_engine.models import inspect_model


def inspect(options: argparse.Namespace) -> int:
    info = inspect_model(read_model(options))
    if options.json:
        emit_json(info.to_dict())
        return 0
    shared = {True: "yes", False: "no", None: "unknown"}[info.shared_experts]
    print(f"{info.source}: {info.architecture} ({info.model_type})")
    print(f"{info.parameters:,} parameters, {info.dtype}, vocabulary {info.vocab_size:,}")
    print(
        f"experts run as {info.experts_implementation} on {info.device}; shared experts: {shared}"
    )
    print(f"fingerprint {info.fingerprint}")
    rows = [
        {"layer": layer, "experts": experts, "experts per token": chosen}
        for layer, experts, chosen in zip(
            info.layers, info.num_experts, info.experts_per_token, strict=True
        )
    ]
    print_table(rows, ["layer", "experts", "experts per token"])
    return 0
