"""The model card of an export: what was unlearned, how, and what was measured, from the run's own
record.

Nothing is computed here and nothing is filled in: what a run did not record or test is said to be
so. Paths are shortened to file names, because a card is made to be given away.
"""

from collections.abc import Mapping
from typing import Any, Literal

from trace_engine.bundled import is_bundled
from trace_engine.config import UnlearnConfig
from trace_engine.evaluation.outcome import number, up_to_saved
from trace_engine.export.measured import measured, result
from trace_engine.export.record import notes_of
from trace_engine.export.words import (
    base_model,
    lines,
    located,
    plain,
    shared_settings,
    short_source,
    table,
)
from trace_engine.methods import METHODS
from trace_engine.runs.directory import RunDirectory
from trace_engine.spelling import percent
from trace_engine.yamlfile import dump_yaml

Form = Literal["merged", "adapter"]
"""The whole model with what was trained in its weights, or LoRA's adapter alone."""
UNTESTED = (
    "Whether the knowledge comes back after a little training on it, or on related text "
    "(relearning).",
    "Whether it comes back when the weights are quantised or pruned.",
    "What the model writes when it is asked freely, in other words, in another language, or by "
    "someone who tries to get it out (jailbreaks, probing of hidden states).",
    "Whether it can be told that the forget set was trained on (membership inference).",
    "How it compares with a model that never saw the forget set (retraining without it).",
    "Skills that no question above asks for: only what is in the table was measured.",
)


def model_card(
    run: RunDirectory, config: UnlearnConfig, form: Form, hashes: Mapping[str, str] | None = None
) -> str:
    """README.md of an export: YAML front matter and Markdown. `hashes`: SHA-256 by file name."""
    facts = run.facts()
    config = located(config, run.launch_folder())
    evaluations = up_to_saved(run.rows("eval"), facts)
    parts = [
        _front_matter(config, form),
        _opening(config, facts),
        lines("", f"**Result.** {result(config, evaluations)}"),
        _how_to_open(config, form, facts),
        _sets(facts),
        _method(config, facts),
        measured(config, facts, evaluations),
        _untested(run, config),
        _use(config),
        _record(run, config, facts, hashes or {}),
    ]
    return "\n".join(parts)


def _model_name(config: UnlearnConfig) -> str:
    if is_bundled(config.model.source):
        return f"TRACE's bundled model {config.model.source}"
    return base_model(config) or short_source(config.model.source)


def _front_matter(config: UnlearnConfig, form: Form) -> str:
    base = base_model(config)
    data: dict[str, Any] = {} if base is None else {"base_model": base}
    if base is not None:
        data["base_model_relation"] = "adapter" if form == "adapter" else "finetune"
    data |= {
        "library_name": "peft" if form == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["unlearning", "machine-unlearning", "mixture-of-experts", "trace-moe"],
    }
    notes = ["# license: choose one; the terms of the start model and of the sets hold as well."]
    if base is None:
        notes.append("# base_model: name it; the start model of this run has no id on the hub.")
    dumped = dump_yaml(data).rstrip("\n")
    return lines("---", dumped, *notes, "---")


def _opening(config: UnlearnConfig, facts: Mapping[str, Any]) -> str:
    forget, retain = (_set_name(config, facts, side) for side in ("forget", "retain"))
    weighted = f"with the retain tokens weighted by routing (TRACE, rule `{config.weights.rule}`)"
    if config.weights.rule == "uniform":
        weighted = "with an unweighted retain term"
    if not METHODS[config.method].retains:
        weighted = "without a retain term"
    return lines(
        f"# {plain(_model_name(config))}, unlearned",
        "",
        f"{plain(_model_name(config))} after {_updates(config, facts)} updates that were to remove "
        f"what **{forget}** holds and keep what **{retain}** holds, by "
        f"{METHODS[config.method].title} {weighted}. How far that went is measured below; it is "
        "not a proof of removal.",
    )


def _updates(config: UnlearnConfig, facts: Mapping[str, Any]) -> int:
    """Updates that the saved model has had."""
    return int((facts.get("kept") or {}).get("step", config.max_steps))


def _set_name(config: UnlearnConfig, facts: Mapping[str, Any], side: str) -> str:
    settings = config.forget if side == "forget" else config.retain
    recorded = (facts.get(side) or {}).get("name")
    return plain(settings.label or short_source(str(recorded or settings.source)))


def _how_to_open(config: UnlearnConfig, form: Form, facts: Mapping[str, Any]) -> str:
    start = base_model(config) or "START_MODEL"
    if form == "merged":
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        ]
        trained = "LoRA's adapters are merged into the weights. " * (
            config.trainable.kind == "lora"
        )
        told = f"{trained}The weights are safetensors, and no code of this project is needed."
    else:
        code = [
            "from peft import PeftModel",
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'start = AutoModelForCausalLM.from_pretrained("{start}")',
            'model = PeftModel.from_pretrained(start, "THIS_FOLDER")',
            'tokenizer = AutoTokenizer.from_pretrained("THIS_FOLDER")',
        ]
        told = (
            "The adapter needs the start model it was trained on; its fingerprint stands below. "
            "Whoever removes the adapter has the start model again, with all it knows."
        )
    told += _unpacked(form, facts.get("model") or {})
    return lines("", "## Open it", "", "```python", *code, "```", "", told)


def _unpacked(form: Form, model: Mapping[str, Any]) -> str:
    stored, dtype = model.get("stored_as", ""), model.get("dtype")
    if not stored:
        return ""
    told = f" The start model is stored as {stored} and was unpacked to {dtype} for training"
    if form == "adapter":
        return f"{told}: open it unpacked (`dequantize=True`) for the same outputs."
    return f"{told}; this folder holds {dtype}."


def _sets(facts: Mapping[str, Any]) -> str:
    rows = []
    for side in ("forget", "retain"):
        found = facts.get(side) or {}
        rows.append(
            [
                side,
                plain(short_source(str(found.get("name", "not recorded")))),
                _count(found.get("documents")),
                _count(found.get("trained_on")),
                _count(found.get("training_tokens")),
                f"`{found.get('fingerprint', 'not recorded')}`",
            ]
        )
    told = []
    overlap = facts.get("overlap") or {}
    if overlap:
        told.append(
            f"{overlap['count']} of {overlap['forget_total']} forget documents are among the "
            f"{overlap['retain_total']} retain documents too."
        )
    header = ("side", "set", "documents", "trained on", "tokens trained on", "SHA-256 of the set")
    return lines("", "## What was unlearned", "", *table(header, rows), "", *told)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "not recorded"


def _method(config: UnlearnConfig, facts: Mapping[str, Any]) -> str:
    method = METHODS[config.method]
    values = {"γ": config.forget_weight, "α": config.retain_weight} | config.parameters()
    told = [
        f"- **Method.** {method.title}. {method.line} Source: {method.source}. "
        + ", ".join(f"{name} = {value:g}" for name, value in values.items())
        + (f"; retain term `{config.kept}`." if method.retains else "; no retain term."),
    ]
    cells = (facts.get("selection") or {}).get("cells") or []
    named = ", ".join(f"L{layer} E{expert}" for layer, expert in cells)
    told.append(
        f"- **Selected experts.** {len(cells)}, by `{config.selection.score}` of "
        f"`{config.selection.statistic}`, scope `{config.selection.scope}`"
        + (f": {named}." if named else ".")
    )
    told.append(f"- **Token weights.** {_weights(config, facts)}")
    if config.control != "none":
        sentence = (facts.get("control") or {}).get("sentence") or config.control
        told.append(f"- **This is a control run.** {plain(str(sentence))}")
    trained = facts.get("trainable") or {}
    if trained:
        told.append(
            f"- **What trained.** {_count(trained.get('parameters'))} of "
            f"{_count(trained.get('total'))} parameters (`{config.trainable.kind}`)."
        )
    anchor = (facts.get("anchor") or {}).get("sentence")
    if anchor:
        told.append(f"- **Expert that trained.** {plain(str(anchor))}")
    told.append(
        f"- **Training.** {_updates(config, facts)} updates of {config.batch_size} documents a "
        f"side, AdamW at {config.learning_rate:g}, seed {config.seed}."
    )
    if facts.get("ended"):
        told.append(f"- **Ended early**, before {config.max_steps} updates: {facts['ended']}.")
    chosen = (facts.get("kept") or {}).get("sentence")
    if chosen:
        told.append(f"- **Which state.** {plain(chosen)}")
    return lines("", "## How", "", *told)


def _weights(config: UnlearnConfig, facts: Mapping[str, Any]) -> str:
    if config.weights.rule == "uniform":
        return "None: every retain token counts alike."
    found = (facts.get("weights") or {}).get("diagnostics") or {}
    hardness, ess = number(found.get("hardness")), number(found.get("ess_share"))
    reached = (
        f" Hardness κ {hardness:.3f}, effective sample {percent(ess)}."
        if hardness == hardness
        else ""
    )
    return f"Rule `{config.weights.rule}`, routing `{config.weights.routing}`.{reached}"


def _untested(run: RunDirectory, config: UnlearnConfig) -> str:
    notes = [f"- {plain(note)}" for note in notes_of(run)]
    said = ["", "The run noted:", "", *notes] if notes else []
    return lines("", "## What was not tested", "", *(f"- {text}" for text in UNTESTED), *said)


def _use(config: UnlearnConfig) -> str:
    return lines(
        "",
        "## Intended use and limits",
        "",
        "For research on unlearning: to repeat, attack and compare the result above. A low score "
        "on questions shows that these questions are answered less well, not that the knowledge is "
        "gone, and the start model's other faults and biases are still there. Do not rely on it "
        "for safety, privacy or copyright duties without tests of your own on the points listed "
        "above.",
    )


def _record(
    run: RunDirectory, config: UnlearnConfig, facts: Mapping[str, Any], hashes: Mapping[str, str]
) -> str:
    versions = facts.get("versions") or {}
    told = [
        f"- Run `{run.id}`; start model `{plain(_model_name(config))}`, fingerprint "
        f"`{(facts.get('model') or {}).get('fingerprint', 'not recorded')}`, revision "
        f"`{(facts.get('model') or {}).get('revision') or 'none'}`.",
        "- Versions: "
        + (", ".join(f"{name} {value}" for name, value in versions.items()) or "not recorded")
        + f"; threads {facts.get('threads', 'not recorded')}.",
        *(f"- `{name}`: SHA-256 `{value}`" for name, value in hashes.items()),
    ]
    settings = dump_yaml(shared_settings(config))
    # Longer than any run of backticks that a label may hold.
    fence = "`" * (3 + settings.count("`"))
    return lines(
        "",
        "## To repeat it",
        "",
        *told,
        "",
        "All settings; files are named without their folders:",
        "",
        f"{fence}yaml",
        settings.rstrip("\n"),
        fence,
    )
