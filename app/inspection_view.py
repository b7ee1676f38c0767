"""What a model is, needs and allows, on the page: asked for by a button, answered by a process.

Nothing is looked at by itself, because a folder may be typed half-way and the hub would be asked.
Accepted trade-off: the page waits while the process runs; leaving it ends the process.
"""

from itertools import groupby
from typing import Any

import pandas as pd
import streamlit as st

from app import doors, house, tables, wording
from app.inspecting import NoAnswerError, question
from trace_engine.config import ModelConfig
from trace_engine.errors import RunError, TraceError
from trace_engine.spelling import size, spans

MOST_ANSWERS = 32
_REFUSED = "refused"
_UNANSWERED = "unanswered"


@st.cache_resource
def _answers() -> dict[str, dict[str, Any]]:
    """Answers of this server's process by question, oldest first."""
    return {}


def panel(config: ModelConfig) -> str | None:
    """The buttons, and the answer when this very model has been looked at; returns why it cannot be
    used, where the inspection refused it or its weights do not fit here."""
    asked, timed = question(config), question(config, trial=True)
    answers = _answers()
    closed = house.rules().read_only
    left, right = st.columns(2)
    look = left.button(
        "Inspect the model",
        icon=":material/search:",
        key="inspect_model",
        disabled=closed,
        width="stretch",
        help="Routing, memory and what is supported, before any weight is loaded.",
    )
    trial = right.button(
        "Time its experts here",
        icon=":material/timer:",
        key="inspect_trial",
        disabled=closed,
        width="stretch",
        help="Inspects, and times each way to multiply the experts for a second, on one layer's "
        "shape with random weights.",
    )
    found = _ask(config, trial=trial) if look or trial else None
    if found is not None:
        # What was said before no longer counts, unless a trial broke off and says nothing of the
        # model.
        for key in [timed] if trial and _UNANSWERED in found else [asked, timed]:
            answers.pop(key, None)
        answers[timed if trial else asked] = found
        while len(answers) > MOST_ANSWERS:
            del answers[next(iter(answers))]
    answer = answers.get(timed) or answers.get(asked)
    if answer is not None and (why := answer.get(_REFUSED) or answer.get(_UNANSWERED)):
        st.error(wording.plain(why), icon=":material/error:")
    elif answer is not None:
        show(answer)
    if answer is not None and timed in answers and _UNANSWERED in answer:
        answer = answers.get(asked)
    return None if answer is None else _why_not(answer)


def _why_not(answer: dict[str, Any]) -> str | None:
    """Why the model cannot be profiled, as far as the answer says."""
    return answer.get(_REFUSED) or answer.get(_UNANSWERED) or answer.get("memory_problem")


def _ask(config: ModelConfig, *, trial: bool) -> dict[str, Any] | None:
    """The answer, or `{_REFUSED: why}`, or `{_UNANSWERED: why}` where none came; None where the
    house lets nobody look now, which says nothing of the model."""
    with st.status("Looking at the model …") as status:
        try:
            with doors.inspect(config, trial=trial) as inspecting:
                for phase in inspecting.phases():
                    status.update(label=f"{phase.capitalize()} …")
                found = inspecting.result()
        except RunError as error:
            status.update(label="Not now", state="error")
            st.warning(wording.plain(str(error)), icon=":material/info:")
            return None
        except NoAnswerError as error:
            status.update(label="No answer", state="error")
            return {_UNANSWERED: str(error)}
        except TraceError as error:
            status.update(label="The model cannot be used", state="error")
            return {_REFUSED: str(error)}
        status.update(label="Inspected", state="complete")
    return found


def show(answer: dict[str, Any]) -> None:
    """One inspection, as `trace-moe inspect --json` prints it."""
    shared = {True: "yes", False: "no", None: "unknown"}[answer["shared_experts"]]
    if settings := answer["shared_settings"]:
        said = ", ".join(f"{name} {wording.count(value)}" for name, value in settings.items())
        shared += f" ({wording.plain(said)})"
    st.markdown(
        f"**{wording.plain(answer['architecture'])}** ({wording.plain(answer['model_type'])}) · "
        f"{wording.count(answer['parameters'])} parameters · {answer['dtype']} · experts run as "
        f"{wording.plain(answer['experts_implementation'])} on {wording.plain(answer['device'])} · "
        f"shared experts: {shared}"
    )
    if answer["memory_problem"]:
        st.error(wording.plain(answer["memory_problem"]), icon=":material/memory:")
    for note in answer["notes"]:
        st.info(wording.plain(note), icon=":material/info:")
    tables.show(
        sites_table(answer["sites"]),
        "moe-sites",
        alt="MoE layers with their experts, experts per token and kind of router",
        download=pd.DataFrame(answer["sites"]),
    )
    left, right = st.columns(2)
    with left:
        st.markdown("**Memory** (weights exact, the rest estimated)")
        tables.show(memory_table(answer), "memory", alt="Memory needed against what is free")
        st.caption(
            "Training: weights, gradients and AdamW's two moments, activations not counted. A "
            "batch while profiling comes on top of the weights."
        )
    with right:
        st.markdown("**Supported** (as far as it can be told before loading)")
        tables.show(support_table(answer["support"]), "support", alt="What works on this model")
    if answer.get("trial_problem"):
        st.error(wording.plain(answer["trial_problem"]), icon=":material/timer:")
    if answer.get("trial"):
        _show_trial(answer["trial"])


def sites_table(sites: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each stretch of sites that are alike; layers as the model numbers them."""
    rows = []
    for kind, alike in groupby(
        sites, key=lambda s: (s["experts"], s["experts_per_token"], s["router"])
    ):
        layers = [site["layer"] for site in alike]
        rows.append(
            {
                "layers": spans(layers),
                "experts": kind[0],
                "experts per token": kind[1],
                "router": kind[2],
            }
        )
    return pd.DataFrame(rows)


def memory_table(answer: dict[str, Any]) -> pd.DataFrame:
    """What is needed, and what is free where the weights would go."""
    memory, device = answer["memory"], answer["device"]
    free = memory["free"]
    if device == "spread":
        room = free["main"] + sum(free["devices"])
    elif device == "cpu":
        room = free["main"]
    else:
        room = free["devices"][int(device.partition(":")[2] or 0)]
    return pd.DataFrame(
        [
            ("the weights", size(memory["weights"])),
            ("of these: routed experts", size(memory["experts"])),
            ("training all of them", size(memory["training"])),
            (f"one batch of {wording.count(memory['tokens'])} tokens",
             size(memory["batch"])),
            (f"free on {device}", size(room)),
        ],
        columns=["what", "memory"],
    )  # fmt: skip


def support_table(support: list[dict[str, str]]) -> pd.DataFrame:
    """What TRACE does, whether it works on this model, and why not."""
    names = {
        "tap": "read the routing (tap)",
        "drop": "switch experts off (drop)",
        "reroute": "route around experts (reroute)",
        "selected experts": "train selected experts only",
        "lora": "train LoRA adapters",
    }
    table = pd.DataFrame(
        [(names.get(i["what"], i["what"]), i["answer"], i["why"]) for i in support],
        columns=["what", "works", "why"],
    )
    return table if any(table["why"]) else table.drop(columns="why")


def _show_trial(trial: dict[str, Any]) -> None:
    st.markdown("**Ways to multiply the experts, timed on this machine**")
    table = pd.DataFrame(
        [
            {
                "implementation": row["implementation"],
                "forward, ms": round(row["forward_ms"], 1),
                "n": row["forwards"],
                "forward and backward, ms": round(row["training_ms"], 1),
                "n ": row["trainings"],
            }
            for row in trial["timings"]
        ]
    )
    tables.show(table, "experts-trial", alt="Median time of each experts implementation")
    for sentence in trial["skipped"]:
        st.caption(wording.plain(sentence))
    st.caption(
        wording.plain(
            f"Medians; {trial['shape']}. Fastest here: {trial['fastest_forward']} forward, "
            f"{trial['fastest_training']} forward and backward. auto takes {trial['automatic']} "
            "whatever is measured, so that the same settings give the same bits."
        )
    )
