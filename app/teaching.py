"""Teaching mode: a toggle over the same pages that explains, asks before it shows, and warns of
traps.

A panel on top of each page holds one section at a time, so that only what is read is computed.
Accepted trade-off: while a prediction is open, the rest of that page is held back, because an
answer that is already on screen is no prediction.
"""

import streamlit as st

from app import charts, curves, findings, lessons, navigation, replay, state, traps, wording
from app.glossary import TERMS, terms_for
from app.lessons import GAP_PAGES, LESSONS, REPLAY_PAGES, TOUR, TRAP_PAGES, TRAPS
from app.theme import palette
from trace_engine.config import Cell
from trace_engine.evaluation.outcome import Figure

KEY = "teaching"
_STEP = "_teaching_step"
SEE, PREDICT, TRAP, REPLAY, TOUR_NAME, WORDS = (
    "What you see",
    "Predict",
    "Traps",
    "Replay",
    "Tour",
    "Glossary",
)
UTILITY_GUESSES = (
    "It holds (within 3 points)",
    "It falls by 3 to 10 points",
    "It falls by more than 10 points",
)


def switch() -> None:
    """The toggle, for the sidebar; on or off is part of the URL."""
    state.bound(KEY, False, (False, True))
    st.toggle("Teaching mode", key=KEY, help="Explanations, predictions and traps on every page.")


sidebar_toggle = switch


def active() -> bool:
    """Whether teaching mode is on."""
    return bool(st.session_state.get(KEY, False))


def panel(page: str) -> None:
    """The panel of one page; draws nothing when teaching mode is off. Raises KeyError for an
    unknown page.
    """
    lesson = LESSONS[page]
    if not active():
        return
    held_back = False
    with st.container(border=True):
        sections = _sections(page)
        key = _section_key(page)
        if st.session_state.get(key) not in sections:
            st.session_state[key] = SEE
        section = st.segmented_control(
            "Teaching mode", sections, key=key, label_visibility="collapsed", required=True
        )
        if section == SEE:
            see, attempt, why = st.columns(3)
            see.markdown(f"**What you see**\n\n{lesson.see}")
            attempt.markdown(f"**Try this**\n\n{lesson.try_this}")
            why.markdown(f"**Why**\n\n{lesson.why}")
        elif section == PREDICT:
            held_back = not (_predict_gap() if page in GAP_PAGES else _predict_utility())
        elif section == TRAP:
            _traps()
        elif section == REPLAY:
            _replay()
        elif section == TOUR_NAME:
            _tour(page)
        else:
            _glossary(page)
    if held_back:
        st.stop()


def _sections(page: str) -> list[str]:
    sections = [SEE]
    if page in GAP_PAGES or page in ("unlearn", "compare"):
        sections.append(PREDICT)
    if page in TRAP_PAGES:
        sections.append(TRAP)
    if page in REPLAY_PAGES:
        sections.append(REPLAY)
    return [*sections, TOUR_NAME, WORDS]


# --- predict, then reveal ------------------------------------------------------------------------


def _predict_gap() -> bool:
    """Guess the cell with the largest gap; True once the answer may be seen."""
    view = state.current_profile()
    if view is None:
        st.info(wording.NO_PROFILE)
        return True
    profile = view.profile
    st.markdown(
        f"Which expert does *{_plain(view.forget_name)}* text use most beyond "
        f"*{_plain(view.retain_name)}* text? The page below waits for your guess."
    )
    # One guess a profile: another pair of sets is another question.
    kept = f"_teach_gap_guess_{view.key}"
    guess = st.session_state.get(kept)
    with st.form("teach_gap", border=False):
        left, middle, right = st.columns([1, 1, 2], vertical_alignment="bottom")
        layer = left.selectbox("Layer", list(profile.layers), key="teach_layer")
        expert = middle.number_input(
            "Expert", 0, max(profile.num_experts_L) - 1, key="teach_expert"
        )
        if right.form_submit_button("Reveal", icon=":material/visibility:", type="primary"):
            guess = (int(layer), int(expert))
            st.session_state[kept] = guess
    if guess is None:
        return False
    best = findings.cell_facts(view, state.strongest_cell(view))
    st.markdown(f"**Largest gap: {state.cell_name(best.cell)}.** {findings.sentence(best)}")
    st.markdown(gap_answer(view, Cell(*guess)))
    return True


def gap_answer(view: state.ProfileView, guess: Cell) -> str:
    """What the guessed cell's gap is and how many of all cells it beats."""
    try:
        facts = findings.cell_facts(view, guess)
    except ValueError:
        return (
            f"There is no {state.cell_name(guess)}: layers may differ in their number of experts."
        )
    mask_LE = view.profile.cell_mask_LE()
    gaps = view.mismatch.difference[mask_LE]
    rank = 1 + int((gaps > facts.difference).sum())
    return (
        f"Your guess, {state.cell_name(guess)}: {wording.points(facts.difference)} "
        f"({wording.interval(facts.low, facts.high)}), rank {rank} of {gaps.size}."
    )


def _predict_utility() -> bool:
    """Guess what utility does while the bundled run forgets; True once the answer may be seen."""
    run = replay.bundled_run()
    if run is None:
        st.info("This checkout has no bundled run to predict. Launch a run and watch its curves.")
        return True
    category = _plain(run.config.evaluation.forget_category)
    st.markdown(
        f"The bundled run unlearns *{category}* in {run.config.max_steps} steps. What happens to "
        "utility, the accuracy on everything else? The page below waits for your guess."
    )
    guess = st.session_state.get("_teach_utility_guess")
    with st.form("teach_utility", border=False):
        picked = st.radio(
            "Utility at the end", UTILITY_GUESSES, index=None, key="teach_utility_pick"
        )
        submitted = st.form_submit_button("Reveal", icon=":material/visibility:", type="primary")
    if submitted and picked is None:
        st.caption("Choose one of the three first.")
    elif submitted:
        guess = picked
        st.session_state["_teach_utility_guess"] = guess
    if guess is None:
        return False
    st.markdown(utility_answer(run, str(guess)))
    _replay()
    return True


def utility_answer(run: replay.StoredRun, guess: str) -> str:
    """What forget accuracy and utility did, against the guess."""
    figures = replay.before_after(run)
    if figures is None:
        return "The bundled run recorded no questions, so there is no utility to compare with."
    (forget_0, utility_0), (forget_1, utility_1) = figures
    if not (utility_0.known and utility_1.known):
        return "The bundled run's utility was not measured at both ends."
    fall = 100 * (utility_0.value - utility_1.value)
    truth = UTILITY_GUESSES[0 if fall <= 3 else 1 if fall <= 10 else 2]
    verdict = "That was your guess." if truth == guess else f"Your guess was: {guess.lower()}."
    chance = curves.chance_of(run.rows, run.config.evaluation.forget_category)
    guessing = "" if chance is None else f"; guessing gives {chance:.3g}"
    return (
        f"**{truth}.** Utility went {_change(utility_0, utility_1)}, while forget accuracy went "
        f"{_change(forget_0, forget_1)}{guessing}. {verdict}"
    )


def _change(start: Figure, end: Figure) -> str:
    return (
        f"{start.value:.2f} → {end.value:.2f} "
        f"({wording.interval(end.low, end.high, 2, scale=1)}, n = {end.n})"
    )


# --- traps ---------------------------------------------------------------------------------------


def _traps() -> None:
    view = state.current_profile()
    if view is None:
        st.info(wording.NO_PROFILE)
        return
    trap = st.pills("Trap", list(TRAPS), default="Small n", required=True, key="teach_trap")
    st.markdown(TRAPS[str(trap)])
    if trap == "Small n":
        _small_n(view)
    elif trap == "Token identity":
        _token_identity(view)
    else:
        charts.show(
            traps.scale_figure(view),
            name="trap_scale",
            alt="The same difference map twice, the second with a colour scale that ends at a "
            "fifth.",
        )


def _small_n(view: state.ProfileView) -> None:
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    most = min(
        100, *(len(side.document_ids) for side in (view.profile.forget, view.profile.retain))
    )
    documents = left.slider(
        "Documents a side", min(5, most), max(most, 6), min(10, most), key="teach_n"
    )
    seed = int(st.session_state.get("_teach_seed", 0))
    right.button("Draw again", icon=":material/casino:", on_click=_draw_again)
    maps_LE = traps.resampled(view.profile, documents, 3, seed)
    limit = 100 * charts.symmetric_limit(view.mismatch.difference)
    names = [
        f"Draw {i}: strongest {state.cell_name(traps.strongest(view.profile, values_LE))}"
        for i, values_LE in enumerate(maps_LE, 1)
    ]
    full = state.cell_name(state.strongest_cell(view))
    charts.show(
        traps.small_maps(
            [*maps_LE, view.mismatch.difference],
            [*names, f"All documents: strongest {full}"],
            view.profile.layers,
            [limit] * 4,
        ),
        name="trap_small_n",
        alt=f"Difference maps of three draws of {documents} documents a side and of all documents.",
    )
    found = traps.scatter(view, documents, 200, seed)
    st.markdown(
        f"In {found.draws} draws of {found.documents} documents a side, {found.distinct} different "
        f"experts came out strongest; {full} did in {wording.percent(found.agree, 0)}. Its gap of "
        f"{wording.points(found.full)} ranged from {wording.points(found.low)} to "
        f"{wording.points(found.high)}."
    )


def _draw_again() -> None:
    st.session_state["_teach_seed"] = int(st.session_state.get("_teach_seed", 0)) + 1


def _token_identity(view: state.ProfileView) -> None:
    table = traps.identity_frame(view)
    if table.empty:
        st.caption("No cell is used more by the forget side, so there is no gap to explain.")
        return
    colours = palette()
    kept = float(table["kept"].mean())
    charts.show(
        charts.share_bars(
            table,
            label="cell",
            series={
                "plain gap": ("plain", colours.forget),
                "token-matched": ("matched", colours.good),
            },
            heading=f"Token-matched, {wording.percent(kept, 0)} of the largest gaps remain on "
            "average",
            unit="pp",
            axis="gap, forget minus retain (pp)",
        ),
        name="trap_identity",
        alt="Bars: the largest gaps in percentage points, plain and against token-matched retain "
        "text.",
        table=table,
    )


# --- replay, tour, glossary ----------------------------------------------------------------------


def _replay() -> None:
    run = replay.bundled_run()
    if run is None:
        st.info(
            "This checkout has no bundled run to replay. A finished run of yours shows its curves."
        )
        return
    category = run.config.evaluation.forget_category
    charts.show(
        replay.replay_figure(run.rows, category, "The bundled run, step by step"),
        name="replay",
        alt="Animated curves of the bundled run: forget accuracy and utility groups over the "
        "steps.",
        caption="Recorded earlier; nothing is computed here. Play, or drag the slider.",
    )


def _tour(page: str) -> None:
    step = int(st.session_state.get(_STEP, 0))
    if step < len(TOUR):
        _stop(page, step)
    else:
        st.progress(1.0, "Tour done: all five steps.")
        if st.button("Take it again", icon=":material/replay:", key="tour_again"):
            _visit(0, page)
    st.button(
        "Reset everything",
        icon=":material/restart_alt:",
        type="tertiary",
        on_click=reset_all,
        help="Settings, guesses, tour and teaching mode go back to how a first visitor finds them. "
        "Runs and profiles on disk stay.",
    )


def _stop(page: str, step: int) -> None:
    """One step of the tour: its task where its page is open, else the way to that page."""
    stop = TOUR[step]
    st.progress(step / len(TOUR), f"Step {step + 1} of {len(TOUR)}: {stop.title}")
    st.markdown(f"{stop.task} **Look for:** {stop.look_for}")
    with st.container(horizontal=True):
        if step and st.button("Back", icon=":material/arrow_back:", key="tour_back"):
            _visit(step - 1, page)
        if stop.page != page:
            label, icon, target = f"Go to step {step + 1}", ":material/arrow_forward:", step
        elif step + 1 < len(TOUR):
            label, icon, target = f"Next: {TOUR[step + 1].title}", ":material/check:", step + 1
        else:
            label, icon, target = "Done", ":material/check:", step + 1
        if st.button(label, icon=icon, type="primary", key="tour_next"):
            _visit(target, page)


def _visit(step: int, page: str) -> None:
    """Open the page of a step, with the tour open on it."""
    st.session_state[_STEP] = step
    if step < len(TOUR) and TOUR[step].page != page:
        st.session_state[_section_key(TOUR[step].page)] = TOUR_NAME
        navigation.go(TOUR[step].page)
    st.rerun()


def _section_key(page: str) -> str:
    return f"_teach_section_{page}"


def reset_all() -> None:
    """One click back to how a first visitor finds the app; runs and profiles on disk stay."""
    state.reset()
    st.session_state[KEY] = False


def _glossary(page: str) -> None:
    everything = st.toggle("All words", key="teach_all_words")
    for term in TERMS if everything else terms_for(page):
        st.markdown(f"**{term.name}**: {term.definition}")


def _plain(text: str) -> str:
    """A set's own name inside Markdown: letters and digits stay, anything that could be markup
    goes.
    """
    return "".join(c if c.isalnum() or c in " .,-_()" else " " for c in text).replace("_", " ")


__all__ = ["active", "lessons", "panel", "reset_all", "sidebar_toggle", "switch"]
