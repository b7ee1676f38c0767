"""Causal evidence as parts of an audit: what hangs on the experts of the map, and whether what is
gone was erased or routed around.

The experts are those with the largest gaps in the start model, where there is one (it still knows),
else in the audited model. Each is taken out by itself, and all together beside random sets of equal
load.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trace_engine.audit.attacked import items_of
from trace_engine.audit.case import Case
from trace_engine.audit.marks import attack_figures
from trace_engine.audit.rerouting import ROLE_OF, ROUTED
from trace_engine.audit.result import Result
from trace_engine.audit.settings import Role
from trace_engine.causal import Rerouted, ablate, erased_or_rerouted, profile_load, scan
from trace_engine.config import Cell
from trace_engine.progress import ProgressCallback
from trace_engine.routing import Profile, load_mismatch
from trace_engine.sets import Question


def causal(case: Case, report: ProgressCallback, taken: Sequence[Cell] | None = None) -> Result:
    """The map's largest gaps (or the experts `taken`), taken out of the model that knows."""
    config = case.config.causal
    role: Role = "before" if "before" in case.models else "model"
    case.close()
    folder, _ = case.profile(role).get(report, case.base)
    table = load_mismatch(folder).table()
    chosen = table.sort_values("difference", ascending=False, kind="stable").head(config.experts)
    pairs = zip(chosen["layer"].tolist(), chosen["expert"].tolist(), strict=True)
    cells = [Cell(layer, expert) for layer, expert in pairs] if taken is None else list(taken)
    load = profile_load(Profile.load(folder))
    asked = list(some_questions(case).values())
    common: dict[str, Any] = {
        "mode": config.mode,
        "forget_category": case.config.forget_category,
        "load": load,
        "style": case.config.style,
        "permutations": config.permutations,
        "seed": case.config.seed,
        "report": report,
    }
    opened = case.open(role)
    alone = scan(opened, asked, cells=cells, **common)
    together = ablate(opened, asked, cells, draws=config.draws, **common)
    rows = alone.table().astype(object)
    return Result(
        {
            "role": role,
            "mode": together.mode,
            "cells": rows.where(rows.notna(), None).to_dict("records"),
            "sentence": together.sentence,
            "effects": [effect.to_dict() for effect in together.effects],
            "bands": {name: band.to_dict() for name, band in together.bands.items()},
            "draws": len(together.random),
            "loads": None if together.loads is None else asdict(together.loads),
            "load_source": together.load_source,
        },
        {"random": [asdict(drawn) for drawn in together.random]},
    )


def rerouted(case: Case, report: ProgressCallback) -> Result:
    """Old routers put back, new experts forbidden, hidden states probed."""
    models = case.config.models()
    case.close()
    config, asked = case.config.causal, some_questions(case)
    found = erased_or_rerouted(
        models["before"],
        models["model"],
        list(asked.values()),
        reference=models.get("reference"),
        forget_category=case.config.forget_category,
        style=case.config.style,
        draws=config.draws,
        permutations=config.permutations,
        seed=case.config.seed,
        report=report,
    )
    data = found.to_dict()
    # The models are named by the report, which leaves out the folders of this machine.
    for name in ("before", "after", "reference"):
        del data[name]
    items = _per_question(case, asked, found)
    return Result(data | attack_figures("rerouted", case.config, items), items)


def _per_question(case: Case, asked: dict[int, Question], found: Rerouted) -> dict[str, Any]:
    """What the part's figures follow from."""
    forget, utility = case.forget_questions(), case.utility_questions()

    def marks(of: Mapping[int, Question]) -> dict[str, str]:
        kept = [number for number, place in enumerate(asked) if place in of]
        return {
            ROUTED[way]: "".join(text[number] for number in kept)
            for way, text in found.marks.items()
        }

    there = {place: question for place, question in asked.items() if place in forget}
    made = {"overlap"} | {
        name
        for name, done in (
            ("restored", "restored" in found.marks),
            ("forced", "forced" in found.marks),
            ("probing", bool(found.probed)),
        )
        if done
    }
    return items_of(there) | {
        "right": marks(forget),
        "utility_number": [place + 1 for place in asked if place in utility],
        "utility": marks(utility),
        "layers": [row.layer for row in found.overlap.layers],
        "kept": {
            group: {
                "tokens": list(of.tokens),
                "kept": [[round(value, 6) for value in layer] for layer in of.kept],
            }
            for group, of in found.kept.items()
        },
        "forbidden": [list(cell) for cell in found.forced.cells],
        "probed": {
            ROLE_OF[name]: {str(layer): text for layer, text in by_layer.items()}
            for name, by_layer in found.probed.items()
        },
        "not_made": {name: text for name, text in found.sentences.items() if name not in made},
    }


def some_questions(case: Case) -> dict[int, Question]:
    """At most `causal.questions` of the audit's questions a category, drawn with the seed."""
    groups: dict[str, list[int]] = {}
    for place, question in case.questions.items():
        groups.setdefault(question.category, []).append(place)
    chosen: list[int] = []
    for number, name in enumerate(sorted(groups)):
        order = np.random.default_rng([case.config.seed, number, 25]).permutation(groups[name])
        chosen += order[: case.config.causal.questions].tolist()
    return {place: case.questions[place] for place in sorted(chosen)}
