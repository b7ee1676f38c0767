"""Inspection on the page: a process of its own, only when asked, errors as sentences."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import doors, inspecting, inspection_view, model_view
from app.inspecting import Inspecting, NoAnswerError, command, question
from tests.support.models import save_tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.routing import Profile
from trace_engine.spelling import spans

OpenPage = Callable[..., AppTest]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_tiny_olmoe(tmp_path / "model")


@pytest.fixture(scope="module")
def answer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a real process says about a real model."""
    folder = save_tiny_olmoe(tmp_path_factory.mktemp("inspected") / "model")
    with Inspecting(ModelConfig(source=str(folder)), trial=True) as under_way:
        phases = list(under_way.phases())
        found = under_way.result()
    assert phases
    return found


def test_a_process_looks_at_a_model(answer: dict[str, Any]) -> None:
    assert answer["architecture"] == "OlmoeForCausalLM"
    assert [site["layer"] for site in answer["sites"]] == [0, 1]
    assert len(answer["trial"]["timings"]) == 3


def test_the_apps_side_loads_no_torch() -> None:
    code = "import app.inspection_view, app.model_view, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_what_is_typed_is_never_an_option() -> None:
    words = command(ModelConfig(source="--trial", revision="--json", dtype="bfloat16"))
    assert words[-2:] == ["--", "--trial"]
    assert "--revision=--json" in words
    assert "--dtype=bfloat16" in words
    assert not any(word.startswith("--quantization") for word in words)


def test_a_refusal_is_the_commands_own_sentence(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"x" * 100)
    with Inspecting(ModelConfig(source=str(model))) as under_way:
        list(under_way.phases())
        with pytest.raises(
            ModelError, match=r"^[^:]+: model\.safetensors is damaged or incomplete"
        ):
            under_way.result()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9, often for want of memory"),
        ("raise KeyError('bug')", "ended with code 1 and no answer"),
    ],
)
def test_a_process_that_dies_is_a_sentence(
    code: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "command", lambda *_, **__: [sys.executable, "-c", code])
    with Inspecting(ModelConfig()) as under_way:
        list(under_way.phases())
        with pytest.raises(NoAnswerError, match=sentence):
            under_way.result()


def test_a_model_that_does_not_fit_here_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; print('{\"memory_problem\": \"x\"}'); print('trace-moe: x', file=sys.stderr)"
    )
    words = [sys.executable, "-c", f"{code}; sys.exit(2)"]
    monkeypatch.setattr(inspecting, "command", lambda *_, **__: words)
    with Inspecting(ModelConfig()) as under_way:
        list(under_way.phases())
        assert under_way.result() == {"memory_problem": "x"}


def sleeper(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setattr(inspecting, "command", lambda *_, **__: sleep)


def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper(monkeypatch)
    monkeypatch.setattr(inspecting, "PATIENCE_SECONDS", 0.0)
    with (
        Inspecting(ModelConfig()) as under_way,
        pytest.raises(NoAnswerError, match="took longer than 0 minutes"),
    ):
        list(under_way.phases())
    assert under_way._process.poll() == -9


def test_a_page_that_is_left_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper(monkeypatch)
    with Inspecting(ModelConfig()) as under_way:
        assert next(under_way.phases()) == "starting a process for it"
    assert under_way._process.poll() == -9


def test_an_answer_is_kept_until_a_file_changes(model: Path) -> None:
    config = ModelConfig(source=str(model))
    first = question(config)
    assert question(config) == first
    assert question(config, trial=True) != first
    assert question(config.model_copy(update={"dtype": "bfloat16"})) != first
    os.utime(model / "config.json", ns=(1, 1))
    assert question(config) != first
    assert question(ModelConfig(source="a\0b")) == question(ModelConfig(source="a\0b"))


def with_folder(app: AppTest, folder: Path) -> AppTest:
    app.segmented_control(key="model_kind").set_value("Folder").run()
    return app.text_input(key="model_folder").set_value(str(folder)).run()


def said(app: AppTest) -> str:
    elements = [*app.markdown, *app.error, *app.warning, *app.caption, *app.info]
    return " ".join(element.value for element in elements).replace("\\", "")


class _Answered:
    """Stands for a process that answers at once; counts how often it was started."""

    started: list[tuple[str, bool]]
    answer: dict[str, Any] | ModelError

    def __init__(
        self, config: ModelConfig, *, trial: bool = False, owner: str | None = None
    ) -> None:
        self.started.append((config.source, trial))

    def __enter__(self) -> "_Answered":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def phases(self) -> list[str]:
        return ["building the model's outline"]

    def result(self) -> dict[str, Any]:
        if isinstance(self.answer, ModelError):
            raise self.answer
        return self.answer


@pytest.fixture
def process(answer: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> type[_Answered]:
    fake = type("Fake", (_Answered,), {"started": [], "answer": answer | {"trial": None}})
    monkeypatch.setattr(doors, "Inspecting", fake)
    return fake


def test_nothing_is_inspected_before_the_button(
    bundled: Profile, open_page: OpenPage, model: Path, process: type[_Answered]
) -> None:
    app = open_page("data_model")
    for part in ("/", str(model.parent), str(model)):
        app = with_folder(app, Path(part))
    assert not app.exception
    assert process.started == []
    app.button(key="inspect_model").click().run()
    assert not app.exception
    assert process.started == [(str(model), False)]
    assert "OlmoeForCausalLM" in said(app)
    [sites, memory, support] = [frame.value for frame in app.dataframe][-3:]
    assert sites["layers"].tolist() == ["0 to 1"]
    assert sites["router"].tolist() == ["softmax top-k"]
    assert any(what.startswith("training all") for what in memory["what"])
    assert set(support["works"]) == {"yes"}
    # The answer stays, and no second process is started for it.
    app.switch_page("pages/expert.py").run()
    app.switch_page("pages/data_model.py").run()
    assert "softmax top-k" in str([frame.value for frame in app.dataframe])
    assert len(process.started) == 1
    app.selectbox(key="model_dtype").set_value("bfloat16").run()
    assert "softmax top-k" not in str([frame.value for frame in app.dataframe])


def test_the_trial_shows_its_table_and_its_n(
    bundled: Profile, open_page: OpenPage, process: type[_Answered], answer: dict[str, Any]
) -> None:
    process.answer = answer
    app = open_page("data_model")
    app.button(key="inspect_trial").click().run()
    assert process.started == [("demo:target", True)]
    table = app.dataframe[-1].value
    assert table["implementation"].tolist() == ["eager", "grouped_mm", "batched_mm"]
    assert (table["n"] >= 2).all()
    assert "auto takes grouped_mm" in said(app)


def test_a_refusal_and_too_little_memory_are_sentences(
    bundled: Profile, open_page: OpenPage, process: type[_Answered], answer: dict[str, Any]
) -> None:
    process.answer = ModelError("x <b>is</b> damaged.")
    app = open_page("data_model")
    app.button(key="inspect_model").click().run()
    assert not app.exception
    assert "x <b>is</b> damaged." in said(app)
    assert "\\<b\\>" in app.error[0].value
    process.answer = answer | {"memory_problem": "x needs 9 and has 1.", "notes": ["Note this."]}
    app.button(key="inspect_model").click().run()
    assert "x needs 9 and has 1." in said(app)
    assert "Note this." in said(app)


def test_a_model_that_was_refused_is_not_offered_for_profiling(
    bundled: Profile, open_page: OpenPage, process: type[_Answered], answer: dict[str, Any]
) -> None:
    good = process.answer
    app = open_page("data_model")
    assert not app.button(key="launch").disabled
    process.answer = ModelError("x is stored as gptq, and cannot be opened here.")
    # Whichever of the two buttons it was that found out.
    app.button(key="inspect_trial").click().run()
    assert "cannot be opened here" in app.error[0].value
    assert app.button(key="launch").disabled
    process.answer = good
    app.button(key="inspect_trial").click().run()
    assert not app.button(key="launch").disabled
    process.answer = ModelError("x is stored as gptq, and cannot be opened here.")
    app.button(key="inspect_model").click().run()
    assert app.button(key="launch").disabled
    assert "Model: x is stored as gptq, and cannot be opened here." in said(app)
    # It stays refused, and another precision, or a look that finds it good, is another matter.
    app.run()
    assert app.button(key="launch").disabled
    app.selectbox(key="model_dtype").set_value("bfloat16").run()
    assert not app.button(key="launch").disabled
    app.selectbox(key="model_dtype").set_value("auto").run()
    assert app.button(key="launch").disabled
    process.answer = good
    app.button(key="inspect_model").click().run()
    assert not app.button(key="launch").disabled
    assert not app.exception


def test_a_trial_that_fails_says_nothing_of_the_model(
    bundled: Profile, open_page: OpenPage, process: type[_Answered], answer: dict[str, Any]
) -> None:
    good = process.answer
    assert isinstance(good, dict)
    app = open_page("data_model")
    process.answer = good | {"trial_problem": "a trial of one layer needs 9, and 1 are free."}
    app.button(key="inspect_trial").click().run()
    assert "a trial of one layer needs 9, and 1 are free." in said(app)
    assert "OlmoeForCausalLM" in said(app)
    assert not app.button(key="launch").disabled
    # A trial that was ended leaves what was said of the model before.
    for before, disabled in ((good, False), (ModelError("x is damaged."), True)):
        process.answer = before
        app.button(key="inspect_model").click().run()
        process.answer = NoAnswerError("ended by signal 9")
        app.button(key="inspect_trial").click().run()
        assert "ended by signal 9" in app.error[0].value
        assert app.button(key="launch").disabled is disabled
    assert not app.exception


def test_a_model_that_does_not_fit_here_is_not_offered_for_profiling(
    bundled: Profile, open_page: OpenPage, process: type[_Answered], answer: dict[str, Any]
) -> None:
    good = process.answer
    app = open_page("data_model")
    process.answer = answer | {"memory_problem": "x needs 9 and has 1."}
    for button in ("inspect_model", "inspect_trial"):
        app.button(key=button).click().run()
        assert "OlmoeForCausalLM" in said(app)
        assert app.button(key="launch").disabled
        assert "Model: x needs 9 and has 1." in said(app)
    process.answer = good
    app.button(key="inspect_model").click().run()
    assert not app.button(key="launch").disabled
    assert not app.exception


def test_small_weights_have_a_size(model: Path) -> None:
    bytes_ = (model / "model.safetensors").stat().st_size
    assert (
        f"weights of {bytes_ / 1024:.0f}\N{NO-BREAK SPACE}KiB"
        in model_view.read_folder(str(model)).facts
    )


def test_layers_without_experts_show_as_gaps() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
    sites = [
        {"layer": layer, "experts": 8, "experts_per_token": 2, "router": router}
        for layer, router in ((1, "a"), (2, "a"), (4, "b"))
    ]
    table = inspection_view.sites_table(sites)
    assert json.loads(table.to_json(orient="records")) == [
        {"layers": "1 to 2", "experts": 8, "experts per token": 2, "router": "a"},
        {"layers": "4", "experts": 8, "experts per token": 2, "router": "b"},
    ]


@pytest.mark.parametrize(
    ("device", "free"), [("cpu", "1.0"), ("cuda", "2.0"), ("cuda:1", "4.0"), ("spread", "7.0")]
)
def test_free_memory_is_that_of_the_place(answer: dict[str, Any], device: str, free: str) -> None:
    memory = answer["memory"] | {"free": {"main": 2**30, "devices": [2**31, 2**32]}}
    table = inspection_view.memory_table(answer | {"device": device, "memory": memory})
    assert table["memory"].tolist()[-1].startswith(free)
