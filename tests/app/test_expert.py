"""Expert: numbers, words in context, escaping, and the hand-picked selection."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import expert_view, state, wording, words
from tests.app.conftest import KEY
from trace_engine.config import Cell
from trace_engine.routing import Context, Profile, TopToken, mismatch

OpenPage = Callable[..., AppTest]
EVIL = "<img src=http://evil.example/x onerror=alert(1)>"


def headings(app: AppTest) -> list[str]:
    return [heading.value for heading in app.subheader]


def test_next_and_previous_walk_over_layers(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("expert", layer="1", expert="7")
    next(button for button in app.button if button.label == "Next").click().run()
    assert "Layer 3, expert 0" in headings(app)
    next(button for button in app.button if button.label == "Previous").click().run()
    assert "Layer 1, expert 7" in headings(app)


def test_the_walk_ends_at_both_ends(bundled: Profile, open_page: OpenPage) -> None:
    first = open_page("expert", layer="1", expert="0")
    assert next(button for button in first.button if button.label == "Previous").disabled
    last = open_page("expert", layer="6", expert="7")
    assert next(button for button in last.button if button.label == "Next").disabled


def test_pin_leave_out_and_back_to_the_rule(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("expert", layer="3", expert="5")
    app.button(key="pin").click().run()
    assert app.query_params["sel"] == '{"add":[[3,5]]}'
    app.button(key="leave_out").click().run()
    assert app.query_params["sel"] == '{"remove":[[3,5]]}'
    app.button(key="unpick").click().run()
    assert "sel" not in app.query_params


def test_one_reveal_opens_words_and_tokens(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("expert", profile=KEY)
    assert not app.exception
    assert [button.label for button in app.button].count("Reveal the text") == 1
    assert not any("Token" in frame.value for frame in app.dataframe)
    next(button for button in app.button if button.label == "Reveal the text").click().run()
    assert not app.exception
    assert "Reveal the text" not in [button.label for button in app.button]
    assert not any(caption.value.startswith("Hidden") for caption in app.caption)
    assert len(app.get("html")) > 0


def test_the_card_agrees_with_the_map(bundled: Profile) -> None:
    view = state.open_profile(KEY)
    assert view is not None
    cell = state.strongest_cell(view)
    card = expert_view.card(view, cell)
    at = (view.profile.site_of(cell.layer), cell.expert)
    assert card.gap == pytest.approx(view.mismatch.difference[at])
    assert card.tokens_forget == view.profile.forget.counts_DLE[:, at[0], at[1]].sum()


def test_all_cells_are_walked_once(bundled: Profile) -> None:
    view = state.open_profile(KEY)
    assert view is not None
    cells = expert_view.all_cells(view)
    assert len(cells) == len(set(cells)) == 24
    assert cells[0] == Cell(1, 0)


def test_tokens_are_escaped_underlined_and_shaded_by_gate() -> None:
    context = Context("d", (EVIL, " b", " c"), (0.9, 0.0, 0.05), (True, False, True), 0)
    shown = words.context_html(context, "forget")
    assert "<img" not in shown
    assert "&lt;img" in shown
    assert shown.count("text-decoration:underline") == 2
    assert shown.count("outline:") == 1
    strong, weak = words._shade("forget", 0.9), words._shade("forget", 0.05)
    assert strong != weak
    assert strong in shown
    assert weak in shown


def test_top_tokens_show_their_spaces() -> None:
    table = expert_view.token_table([TopToken(3, " a\n", 4, 5, 1.5, 2.0)])
    assert table.loc[0, "token"] == "␣a⏎"


@pytest.mark.fault_row(24)
def test_markup_in_tokens_and_set_names_is_inert(
    bundled: Profile, tmp_path: Path, open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil = replace(
        bundled,
        token_text=dict.fromkeys(bundled.token_text, EVIL),
        meta={**bundled.meta, "sets": {"forget": {"name": "![x](http://evil.example/y)"}}},
    )
    evil.save(tmp_path / "evil")
    found = mismatch(evil, permutations=99, bootstrap=100)
    # The map's file is the profile's, so a stranger's says what it likes.
    replace(found, notes=(*found.notes, "![x](http://evil.example/z)")).save(tmp_path / "evil")
    monkeypatch.setattr(state, "BUNDLED_PATH", tmp_path / "evil")
    for page in ("expert", "start", "routing_map"):
        app = open_page(page)
        assert not app.exception
        assert all("<img" not in block.proto.body for block in app.get("html"))
        shown = [e.value for e in [*app.markdown, *app.caption, *app.warning, *app.info]]
        assert not any("![x](" in text for text in shown)
        assert not any("![x](" in metric.help for metric in app.metric)


def test_plain_keeps_the_reader_from_seeing_markup() -> None:
    assert wording.plain("![x](u) `a` <b> :red[c]") == (r"!\[x\](u) \`a\` \<b\> \:red\[c\]")
