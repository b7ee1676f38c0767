"""A new audit on its page: models, sets, questions and the form's fields, as one settings file.

The file that is shown is the one that is launched, and the command beside it does the same.
Accepted trade-off: sources are typed, as in the file; the attacks' own settings are changed in the
file and run by the command.
"""

import secrets
from typing import Any

import streamlit as st

from app import doors, forms, house, state, wording
from app.question_form import STYLES, TEST_QUESTIONS
from trace_engine.attacks.settings import AskingConfig
from trace_engine.audit.evidence import WORDS
from trace_engine.audit.names import NAMES
from trace_engine.audit.settings import (
    PARTS,
    AuditConfig,
    FormConfig,
    PartName,
    PublishedConfig,
    description_of,
    style_of,
)
from trace_engine.bundled import is_bundled, resolve_source
from trace_engine.config import ModelConfig, to_yaml
from trace_engine.errors import TraceError
from trace_engine.sets.tofu import FORGET, FORGET_SETS

_FORM_LABELS = {
    "auditor": "Who audits",
    "organisation": "Organisation",
    "date": "Date",
    "purpose": "Purpose",
    "intended_use": "Intended use of the report",
    "limits": "Limits",
    "reviewed_by": "Reviewed by",
    "review": "How it was reviewed",
}
REFERENCE = "demo:retrain_no_hazard"
_ONE_LINE = ("auditor", "organisation", "date", "reviewed_by")


_WITHOUT_TEMPLATES = (
    "For example: `Which of these is true? {question}` Left empty, questions that are not bundled "
    "are not asked in other words: the report lists that as not tested, and that the model does "
    "not hold the knowledge has no high confidence then."
)
_REVISIONS = {
    "model": ("audit_revision", "audited model"),
    "before": ("audit_before_revision", "start model"),
    "reference": ("audit_reference_revision", "reference"),
}
_LICENSED = {
    "forget": "the forget set",
    "retain": "the retain set",
    "questions": "the questions",
    "holdout": "the held-out set",
    "muse": "MUSE's corpus",
    "tofu": "TOFU",
}


def settings() -> tuple[AuditConfig | None, str | None]:
    """Draw the form; the settings, or None and why they are refused."""
    name = st.text_input("Name of the audit", key="audit_name", max_chars=120)
    models = st.columns(3)
    model = models[0].text_input(
        "Audited model", "demo:target", key="audit_model", help=forms.help_of(ModelConfig, "source")
    )
    before = models[1].text_input(
        "Start model (optional)", key="audit_before", help=forms.help_of(AuditConfig, "before")
    )
    _prefill_reference(model.strip())
    reference = models[2].text_input(
        "Reference (optional)", key="audit_reference",
        help=forms.help_of(AuditConfig, "reference"),
    )  # fmt: skip
    sets = st.columns(3)
    forget = sets[0].text_input("Forget set", "demo:forget", key="audit_forget")
    retain = sets[1].text_input("Retain set", "demo:retain", key="audit_retain")
    questions = sets[2].text_input(
        "Questions", TEST_QUESTIONS, key="audit_questions",
        help=forms.help_of(AuditConfig, "questions"),
    )  # fmt: skip
    published = _published()
    rest = st.columns(4)
    category = rest[0].text_input(
        "Category of the forget questions", "hazard", key="audit_category"
    )
    most = rest[1].number_input(
        "Questions per category, at most", 50, None, 200, key="audit_most", step=50
    )
    _offer("audit_style", style_of(questions.strip(), category.strip()))
    style = rest[2].selectbox(
        "What is scored", list(STYLES), format_func=STYLES.__getitem__, key="audit_style",
        help=forms.help_of(AuditConfig, "style"),
    )  # fmt: skip
    sentence = description_of(questions.strip(), category.strip()) if style == "letters" else ""
    _offer("audit_description", _typed(sentence))
    description = st.text_input(
        "Before every question (optional)", key="audit_description",
        help=f"{forms.help_of(AuditConfig, 'description')} `\\n` ends a line.",
    )  # fmt: skip
    templates = st.text_area(
        "The questions in other words, a template a line (optional)", key="audit_templates",
        height=68, help=f"{forms.help_of(AskingConfig, 'templates')} {_WITHOUT_TEMPLATES}",
    )  # fmt: skip
    reveal = rest[3].toggle(
        "Reveal the questions", key="audit_reveal",
        help=forms.help_of(AuditConfig, "reveal"),
    )  # fmt: skip
    parts = st.pills(
        "Parts", PARTS, selection_mode="multi", default=list(PARTS), format_func=_titled,
        key="audit_parts", help="What is left out is listed in the report as not tested.",
    )  # fmt: skip
    values: dict[str, Any] = {
        "name": name,
        "forget": {"source": forget.strip()},
        "retain": {"source": retain.strip()},
        "questions": questions.strip() or None,
        "forget_category": category.strip(),
        "style": style,
        "description": description.replace("\\n", "\n"),
        "max_questions": int(most),
        "reveal": reveal,
        "published": published,
        "asking": _asking(templates),
        "parts": None if len(parts) == len(PARTS) else [part for part in PARTS if part in parts],
        **_provenance(),
        "form": _people(),
    }
    sources = {"model": model, "before": before, "reference": reference}
    values |= {role: _model(role, source.strip()) for role, source in sources.items()}
    return forms.build(AuditConfig, values)


def _model(role: str, source: str) -> dict[str, str] | None:
    """A model with its revision, None where neither is given."""
    key, _ = _REVISIONS[role]
    revision = st.session_state.get(key, "").strip()
    given = {"source": source} | ({"revision": revision} if revision else {})
    return given if source or revision or role == "model" else None


def _asking(templates: str) -> dict[str, Any]:
    """The wordings that were typed; the settings' own where none was."""
    lines = [line.strip() for line in templates.splitlines() if line.strip()]
    return {"templates": lines} if lines else {}


def _prefill_reference(model: str) -> None:
    """The bundled reference beside another bundled model, unless something else was typed: a model
    of one's own has none that the page could know."""
    fits = is_bundled(model) and model != REFERENCE
    offered = REFERENCE if fits else ""
    _offer("audit_reference", offered)


def _offer(key: str, value: str) -> None:
    """What a field starts with, for as long as nobody chose something else."""
    before, there = (st.session_state.get(name) for name in (f"_{key}_offered", key))
    # Nothing is there on a first look, and after another page.
    if there is None or (value != before and there == before):
        st.session_state[key] = value
    st.session_state[f"_{key}_offered"] = value


def _typed(text: str) -> str:
    """Lines as a person types them in a field of one line."""
    return text.replace("\n", "\\n")


def _titled(part: PartName) -> str:
    return WORDS[part][:1].upper() + WORDS[part][1:]


def _published() -> dict[str, str | None]:
    """Published benchmarks, each by its folder or hub id."""
    columns = st.columns(3)
    given = {
        name: columns[place].text_input(
            f"{title} (optional)", key=f"audit_{name}", help=forms.help_of(PublishedConfig, name)
        )
        for place, (name, title) in enumerate(NAMES.items())
    }
    forget = columns[2].selectbox(
        "Forget set of TOFU", FORGET_SETS, FORGET_SETS.index(FORGET), key="audit_tofu_forget",
        help=forms.help_of(PublishedConfig, "tofu_forget"),
    )  # fmt: skip
    return {name: value.strip() or None for name, value in given.items()} | {"tofu_forget": forget}


def _provenance() -> dict[str, Any]:
    """What else is known of model and sets; everything may stay empty."""
    with st.expander("Revisions, licences, held-out text, earlier runs", icon=":material/folder:"):
        thirds = st.columns(3)
        for place, (key, title) in enumerate(_REVISIONS.values()):
            thirds[place].text_input(
                f"Revision of the {title}", key=key, help=forms.help_of(ModelConfig, "revision")
            )
        holdout = st.text_input(
            "Held-out set", key="audit_holdout", help=forms.help_of(AuditConfig, "holdout")
        )
        thirds = st.columns(3)
        licences = {
            name: thirds[place % len(thirds)].text_input(
                f"Licence of {title}", key=f"audit_licence_{name}",
                help="As you know it; shown in the report, not checked.",
            )
            for place, (name, title) in enumerate(_LICENSED.items())
        }  # fmt: skip
        runs = st.text_area(
            "Runs that led to the model, one a line", key="audit_runs", height=68,
            help=forms.help_of(AuditConfig, "runs"),
        )  # fmt: skip
    return {
        "holdout": {"source": holdout.strip()} if holdout.strip() else None,
        "licences": {name: value.strip() for name, value in licences.items()},
        "runs": [line.strip() for line in runs.splitlines() if line.strip()],
    }


def _people() -> dict[str, str]:
    with st.expander("Who audits, for what, and how it was reviewed", icon=":material/edit_note:"):
        columns = st.columns(2)
        given = {
            field: columns[place % 2].text_input(
                _FORM_LABELS[field], key=f"audit_{field}", help=forms.help_of(FormConfig, field)
            )
            for place, field in enumerate(_ONE_LINE)
        }
        longer = [field for field in _FORM_LABELS if field not in _ONE_LINE]
        return given | {
            field: columns[place % 2].text_area(
                _FORM_LABELS[field],
                key=f"audit_{field}",
                height=68,
                help=forms.help_of(FormConfig, field),
            )
            for place, field in enumerate(longer)
        }


def launcher(config: AuditConfig | None, problem: str | None) -> None:
    """The button, why it is off, and the file and command that equal the page."""
    problems = [problem] if problem else []
    try:
        house.may_start()
    except TraceError as error:
        problems.append(str(error))
    if config is not None:
        problems += _missing(config)
    for sentence in problems:
        st.warning(wording.plain(sentence), icon=":material/info:")
    st.session_state.setdefault("_audit_token", secrets.token_hex(8))
    st.button(
        "Audit",
        type="primary",
        icon=":material/fact_check:",
        disabled=bool(problems),
        on_click=_launch,
        args=(config, st.session_state["_audit_token"]),
        key="audit_launch",
    )
    if config is not None:
        with st.expander("The same as a file and a command", icon=":material/terminal:"):
            st.code(house.shown(to_yaml(config)), language="yaml")
            st.code("trace-moe audit audit.yaml --out report\ntrace-moe verify report", "bash")
            st.code(
                "import trace_engine as trace\n\n"
                'trace.run_audit(trace.read_audit("audit.yaml"), "report")\n',
                "python",
            )


def _missing(config: AuditConfig) -> list[str]:
    """What can be told without opening anything: empty names, and parts the pack lacks."""
    said = []
    given = {
        "Audited model": config.model.source,
        "Forget set": config.forget.source,
        "Retain set": config.retain.source,
        "Category of the forget questions": config.forget_category,
    }
    if config.before is not None:
        given["Start model"] = config.before.source
    if config.reference is not None:
        given["Reference"] = config.reference.source
    said += [f"{label}: is empty." for label, value in given.items() if not value]
    others = [model.source for model in config.models().values()]
    sets = [s.source for s in (config.forget, config.retain, config.holdout) if s is not None]
    for source in [*others, *sets, config.questions or ""]:
        try:
            resolve_source(source)
        except TraceError as error:
            said.append(str(error))
    return said


def _launch(config: AuditConfig, token: str) -> None:
    try:
        state.set_audit_id(doors.launch_audit(config, token=token))
    except TraceError as error:
        state.notice(str(error))
    st.session_state["_audit_token"] = secrets.token_hex(8)
