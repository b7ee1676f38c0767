"""From two sets and a model to a profiling job: the pair's check, the settings, the launch.

Whatever stands in the way is listed as sentences beside a disabled button. Accepted trade-off: the
overlap must be confirmed again when a set changes, because the confirmation is about those texts.
"""

import shlex
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from app import doors, forms, house, inspecting, sets_view, state, wording, words
from trace_engine.config import ModelConfig, ProfileConfig, to_yaml
from trace_engine.errors import InputError, TraceError
from trace_engine.sets import DocumentSet, Overlap, check_pair


def pair_problems(forget: sets_view.Chosen, retain: sets_view.Chosen) -> list[str]:
    """What is wrong with the pair; asks for confirmation when the two overlap."""
    problems = [
        f"{side.side.capitalize()} set: {side.problem}"
        for side in (forget, retain)
        if side.problem is not None
    ]
    if forget.documents is None or retain.documents is None:
        return problems
    pair = (forget.documents, retain.documents)
    first, second = ((each.fingerprint, each.name) for each in pair)
    found = _checked(first, second, pair)
    if isinstance(found, str):
        st.error(wording.plain(found), icon=":material/error:")
        return [*problems, found]
    if not found.count:
        return problems
    st.warning(
        f"{wording.count(found.count)} of {wording.count(found.forget_total)} forget documents are "
        "in the retain set too. What is on both sides cannot be told apart, and training would "
        "pull it both ways.",
        icon=":material/warning:",
    )
    if not (forget.own or retain.own) or words.text_revealed():
        for text in found.sample[:3]:
            st.text(f"· {text[:200]}")
    about = f"{forget.documents.fingerprint[:12]}-{retain.documents.fingerprint[:12]}"
    if not st.checkbox("Compare them all the same", key=f"overlap-{about}"):
        problems.append("The overlap is not confirmed.")
    return problems


@st.cache_data(max_entries=16, show_spinner="Comparing the two sets …")
def _checked(
    forget: tuple[str, str], retain: tuple[str, str], _pair: tuple[DocumentSet, DocumentSet]
) -> Overlap | str:
    """Overlap, or why there is none to tell; kept for two sets of these contents and names."""
    try:
        return check_pair(*_pair)
    except InputError as error:
        return str(error)


@dataclass(frozen=True, slots=True)
class Settings:
    """The few settings of a profile that a person may want to change."""

    max_length: int
    seed: int
    count_bos: bool

    def profile(
        self, model: ModelConfig, forget: sets_view.Chosen, retain: sets_view.Chosen
    ) -> ProfileConfig:
        """The job's settings. Own text is written to the home by this."""
        return ProfileConfig(
            model=model,
            forget=forget.config(),
            retain=retain.config(),
            max_length=self.max_length,
            seed=self.seed,
            count_bos=self.count_bos,
        )


def settings() -> Settings:
    """Draw the settings and return them."""
    fields = ProfileConfig.model_fields
    with st.expander("Settings", icon=":material/tune:"):
        left, middle, right = st.columns(3, vertical_alignment="bottom")
        state.bound("max_length", 512, read=_whole(8, 131072))
        length = left.number_input(
            "Tokens per document",
            min_value=8,
            max_value=131072,
            step=64,
            key="max_length",
            help=fields["max_length"].description,
        )
        state.bound("seed", 0, read=_whole(0, 2**31 - 1))
        seed = middle.number_input(
            "Seed", min_value=0, max_value=2**31 - 1, step=1, key="seed",
            help="Of the token sample, the permutations and the bootstrap.",
        )  # fmt: skip
        state.bound("count_bos", False, (False, True))
        bos = right.toggle(
            "Count BOS on the map", key="count_bos", help=fields["count_bos"].description
        )
    return Settings(int(length), int(seed), bool(bos))


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return read


def _house_trouble() -> list[str]:
    """Why this server starts no profile now."""
    try:
        house.may_start()
    except TraceError as error:
        return [str(error)]
    return []


def launcher(
    forget: sets_view.Chosen,
    retain: sets_view.Chosen,
    model: ModelConfig | None,
    chosen: Settings,
    problems: list[str],
) -> None:
    """The launch button, or the reasons why it is disabled; and the file that does the same."""
    problems = [*problems, *_house_trouble()]
    for problem in problems:
        st.markdown(f":material/block: {wording.plain(problem)}")
    pressed = st.button(
        "Profile the routing",
        type="primary",
        icon=":material/play_arrow:",
        disabled=bool(problems) or model is None,
        key="launch",
    )
    if problems or model is None:
        return
    if pressed:
        try:
            state.set_job_id(doors.launch(chosen.profile(model, forget, retain)))
        except TraceError as error:
            st.error(wording.plain(str(error)), icon=":material/error:")
        else:
            st.rerun()
    if not (forget.own or retain.own):
        # Own sets have no path before they are launched; the job's settings file names them then.
        config = chosen.profile(model, forget, retain)
        forms.from_the_command_line(command(config), to_yaml(config))


def command(config: ProfileConfig) -> str:
    """The CLI call that computes the same profile; only what differs from the defaults is said."""
    words = ["--model", config.model.source]
    for option, text in inspecting.options(config.model):
        words += [f"--{option}", text]
    words += ["--forget", config.forget.source, "--retain", config.retain.source]
    usual = ProfileConfig.model_fields
    for name in ("max_length", "seed", "count_bos"):
        value = getattr(config, name)
        if value != usual[name].default:
            option = "--" + name.replace("_", "-")
            words += [option] if value is True else [option, str(value)]
    pairs = shlex.join(words).replace(" --", " \\\n  --")
    return f"trace-moe profile {pairs} \\\n  --out my-profile"
