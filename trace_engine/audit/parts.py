"""The parts of an audit: what each measures, and what it needs.

A part is a function of the case that returns a `Result`: a summary that the report shows, and items
that only the answer files and `verify` read. What decides a part's figures is its key, so that a
finished part is never computed twice and never kept for other settings.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from trace_engine.attacks.paired import accuracy, beyond_chance, difference, marks, shares
from trace_engine.audit import attacked, caused, published, trained
from trace_engine.audit.case import Case, hash_of
from trace_engine.audit.evidence import UTILITY
from trace_engine.audit.marks import chance_of
from trace_engine.audit.result import Result
from trace_engine.audit.settings import PUBLISHED, AuditConfig, PartName, Role
from trace_engine.bundled import is_bundled
from trace_engine.errors import InputError
from trace_engine.evaluation.families import Loss
from trace_engine.evaluation.membership import Membership, withheld
from trace_engine.evaluation.memorisation import Memorisation
from trace_engine.evaluation.multiple_choice import ChoiceScores, score_questions
from trace_engine.evaluation.probe import probe_documents, routing_probe
from trace_engine.progress import ProgressCallback
from trace_engine.routing import drift, load_mismatch

VERSION = 3
"""Of how the parts compute; a change makes finished parts of older reports be computed again."""
_SINCE: Final[dict[PartName, int]] = {
    "measures": 4,
    "causal": 6,
    "rerouted": 6,
    "relearning": 5,
    "recovery": 5,
    "paraphrases": 6,
    "prefixes": 6,
}
"""Of parts that alone compute otherwise since then."""


Part = Callable[[Case, ProgressCallback], Result]


def key_of(part: PartName, case: Case) -> str:
    """SHA-256 of everything that decides a part's figures."""
    config = case.config
    asked = {role: model.asked() for role, model in config.models().items()}
    common = config.model_dump(
        mode="json",
        include={"forget_category", "style", "max_questions", "max_documents", "max_length"}
        | {"seed", "threads"},
    )
    if config.description:
        common["description"] = config.description
    data = {
        "version": _SINCE.get(part, VERSION),
        "part": part,
        "models": asked,
        "fingerprints": {
            name: of
            for name, of in case.fingerprints().items()
            if name not in PUBLISHED or name == part
        },
        "settings": common | _own(part, config),
    }
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


_OWN: Final[dict[PartName, tuple[str, ...]]] = {
    "causal": ("causal",),
    "rerouted": ("causal",),
    "relearning": ("relearning",),
    "recovery": ("recovery",),
    "quantisation": ("quantisation",),
    "paraphrases": ("asking",),
    "prefixes": ("asking",),
}
"""Groups of settings that a part has to itself."""


def _own(part: PartName, config: AuditConfig) -> dict[str, Any]:
    if part in PUBLISHED:
        # Its texts have a fingerprint, and the other one's settings are none of its business.
        shared = {"prompt", "max_items", "max_length"}
        return {"published": config.published.model_dump(mode="json", include=shared)}
    own = {name: getattr(config, name).model_dump(mode="json") for name in _OWN.get(part, ())}
    if "causal" in own and (part != "causal" or config.causal.mode == "drop"):
        # Keys of before there was a choice; and how experts are taken out concerns them alone.
        del own["causal"]["mode"]
    return own


def why_not(part: PartName, config: AuditConfig) -> str | None:
    """Why a part cannot be made of what there is, or None when it can."""
    if config.parts is not None and part not in config.parts:
        return "left out by the settings"
    if part in ("drift", "rerouted") and config.before is None:
        return "there is no model before to compare with"
    if part in PUBLISHED and getattr(config.published, part) is None:
        return f"published.{part} names no folder and no hub set"
    if part in _NEED_QUESTIONS and config.questions is None:
        return "there are no questions"
    if part == "paraphrases" and not _other_words(config):
        return "there is no other wording: asking.paraphrases and asking.templates are empty"
    return None


_NEED_QUESTIONS: Final[tuple[PartName, ...]] = (
    "questions",
    "causal",
    "rerouted",
    "relearning",
    "recovery",
    "quantisation",
    "paraphrases",
    "prefixes",
)  # fmt: skip


def _other_words(config: AuditConfig) -> bool:
    asking = config.asking
    if asking.templates == "auto":
        return asking.paraphrases is not None or is_bundled(config.questions or "")
    return asking.paraphrases is not None or bool(asking.templates)


def ask(case: Case, role: Role, report: ProgressCallback) -> ChoiceScores:
    """All questions, asked as they are."""
    opened = case.open(role)
    asked = list(case.questions.values())
    return score_questions(
        opened.model, opened.tokenizer, asked, style=case.config.style, report=report
    )


def margins(scores: ChoiceScores) -> list[float]:
    """Per question, by how many nats the picked choice leads the next one."""
    found = []
    for values in scores.loglikelihoods:
        ordered = np.sort(values)
        found.append(round(float(ordered[-1] - ordered[-2]), 4))
    return found


def questions(case: Case, report: ProgressCallback) -> Result:
    """Every model's answers, by category, and how they differ question by question."""
    categories = [question.category for question in case.questions.values()]
    items: dict[str, Any] = {
        "number": [number + 1 for number in case.questions],
        "hash": [hash_of(question) for question in case.questions.values()],
        "category": categories,
        "answer": [question.answer for question in case.questions.values()],
        "choices": [len(question.choices) for question in case.questions.values()],
        "picked": {},
        "margin": {},
        "right": {},
    }
    for role in case.models:
        scores = ask(case, role, report)
        items["picked"][role] = scores.picked.tolist()
        items["margin"][role] = margins(scores)
        items["right"][role] = marks(scores.correct)
    return Result(question_summary(case.config, items), items)


def question_summary(config: AuditConfig, items: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracies, differences and guessing, from right, wrong and the number of choices alone;
    `verify` computes them again. Older versions did not store the numbers of choices: then without
    guessing."""
    groups: dict[str, list[int]] = {}
    for place, category in enumerate(items["category"]):
        groups.setdefault(category, []).append(place)
    forget = groups[config.forget_category]
    utility = sorted(set(range(len(items["category"]))) - set(forget))
    named = dict(sorted(groups.items())) | ({UTILITY: utility} if utility else {})
    right: dict[str, str] = items["right"]

    def of(role: str, places: list[int]) -> str:
        return "".join(right[role][place] for place in places)

    rows, differences = [], []
    for role in right:
        for name, places in named.items():
            rows.append({"model": role, "on": name, **accuracy(of(role, places)).to_dict()})
    for minus in ("before", "reference"):
        for name, places in named.items() if minus in right else ():
            found = difference(shares(of("model", places)), shares(of(minus, places)), config.seed)
            differences.append({"minus": minus, "on": name, **found.to_dict()})
    choices: list[int] | None = items.get("choices")
    summary: dict[str, Any] = {
        "forget_category": config.forget_category,
        "n_forget": len(forget),
        "n_utility": len(utility),
        "accuracy": rows,
        "differences": differences,
        "implementation": _implementation(config),
    }
    if choices is None:
        return summary
    summary["chance"] = chance = chance_of([choices[place] for place in forget])
    summary["beyond_chance"] = {
        role: beyond_chance(of(role, forget), chance).to_dict() for role in right
    }
    if utility:
        guessed = chance_of([choices[place] for place in utility])
        summary["utility_beyond_chance"] = beyond_chance(of("model", utility), guessed).to_dict()
    return summary


def _implementation(config: AuditConfig) -> str:
    said = f"TRACE, after lm-evaluation-harness multiple_choice, {config.style}"
    # One line of it is enough to tell which it is.
    behind = f", behind “{' '.join(config.description.split())}”" if config.description else ""
    return said + behind


def measures(case: Case, report: ProgressCallback) -> Result:
    """Loss, memorisation and membership of every model."""
    forget, length = case.drawn("forget"), case.config.max_length
    families: list[Any] = [
        Loss(forget, "forget set", length),
        Loss(case.drawn("retain"), "retain set", length),
        Memorisation(forget, "forget set", length),
    ]
    why = "" if case.held_out is None else case.held_out.why_no_membership
    if case.holdout is not None and not why:
        families.append(Membership(forget, case.drawn("holdout"), AGAINST_HOLDOUT, length))
    collected: dict[Role, list[Any]] = {}
    for role in case.models:
        opened = case.open(role)
        collected[role] = [family.collect(opened, report) for family in families]
    rows = []
    for role, scores in collected.items():
        known = collected.get("reference") if role != "reference" else None
        for place, family in enumerate(families):
            against = known[place] if known is not None and family.needs_reference else None
            rows += [
                {"model": role, **row.to_dict()} for row in family.rows(scores[place], against)
            ]
        if why:
            rows += [{"model": role, **row.to_dict()} for row in withheld(AGAINST_HOLDOUT, why)]
    return Result({"rows": rows})


AGAINST_HOLDOUT: Final = "forget set against holdout"
_CELL_COLUMNS: Final = (
    "layer", "expert", "forget", "retain", "difference", "low", "high", "p_max", "q_bh",
    "null_difference", "matched_difference",
)  # fmt: skip


def routing(case: Case, report: ProgressCallback) -> Result:
    """Where both sets are routed, cell by cell, in the model and in the one before."""
    found: dict[str, Any] = {}
    for role in case.models:
        if role == "reference":
            continue
        case.close()
        answer = case.profile(role)
        folder, _ = answer.get(report, case.base)
        compared = load_mismatch(folder)
        table = compared.table()[list(_CELL_COLUMNS)]
        found[role] = {
            "profile": answer.key,
            "documents": {"forget": compared.documents_forget, "retain": compared.documents_retain},
            "tokens": {"forget": compared.tokens_forget, "retain": compared.tokens_retain},
            "permutations": compared.permutations,
            "bootstrap": compared.bootstrap,
            "matched_coverage": compared.matched_coverage,
            "notes": list(compared.notes),
            "cells": table.round(6).to_dict("records"),
        }
    return Result(found)


def drifted(case: Case, report: ProgressCallback) -> Result:
    """How far routing moved from the model before, on both sets, by layer."""
    before, after = case.models["before"], case.models["model"]
    if (before.layers, before.experts_per_token) != (after.layers, after.experts_per_token):
        raise InputError(
            f"Routing cannot be compared: the model before routes in layers {list(before.layers)}, "
            f"the model in layers {list(after.layers)}."
        )
    sides = {side: case.drawn(side) for side in ("forget", "retain")}
    length = case.config.max_length
    probes = {
        role: {side: routing_probe(case.open(role), sides[side], length) for side in sides}
        for role in ("before", "model")
    }
    rows = []
    for side, documents in sides.items():
        place_N = probe_documents(case.open("model"), documents, length)
        moved = drift(probes["before"][side], probes["model"][side], place_N)
        for site, layer in enumerate(after.layers):
            rows.append(
                {
                    "on": f"{side} set",
                    "layer": layer,
                    "overlap": float(moved.overlap[site]),
                    "low": float(moved.low[site]),
                    "high": float(moved.high[site]),
                    "n": moved.n,
                }
            )
    chance = [k / e for k, e in zip(after.experts_per_token, after.num_experts, strict=True)]
    return Result({"rows": rows, "chance": chance, "unit": "documents"})


COMPUTED: Final[dict[PartName, Part]] = {
    "questions": questions,
    "measures": measures,
    "muse": published.muse,
    "tofu": published.tofu,
    "routing": routing,
    "causal": caused.causal,
    "drift": drifted,
    "rerouted": caused.rerouted,
    "relearning": trained.relearning,
    "recovery": trained.recovery,
    "quantisation": attacked.quantisation,
    "paraphrases": attacked.other_words,
    "prefixes": attacked.behind_prefixes,
}
