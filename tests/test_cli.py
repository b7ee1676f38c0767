"""The command line: options from the settings, tables and JSON, refusals as one sentence."""

import argparse
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.runs.light_worker import config as light_config
from tests.support.models import save_tiny_olmoe, tiny_olmoe
from tests.support.profiles import synthetic_profile
from trace_engine.audit.settings import HARNESS_SENTENCE, parse_audit
from trace_engine.bundled import PACK
from trace_engine.cli import main
from trace_engine.cli.configuring import bundled_audit, commented_yaml, defaults
from trace_engine.cli.main import build_parser
from trace_engine.cli.options import read_profile, read_selection, read_weights
from trace_engine.cli.output import describe, duration, print_table
from trace_engine.config import (
    Cell,
    ProfileConfig,
    SelectionConfig,
    SetConfig,
    UnlearnConfig,
    WeightsConfig,
    parse_config,
    to_yaml,
)
from trace_engine.demo.settings import TUNED, UNTUNED
from trace_engine.disk import write_json
from trace_engine.errors import InputError
from trace_engine.methods import METHODS, MethodName
from trace_engine.models.memory import Machine
from trace_engine.progress import Progress
from trace_engine.routing import Profile
from trace_engine.runs import RunDirectory
from trace_engine.runs.places import subfolder
from trace_engine.sets import check_answers
from trace_engine.spelling import NBSP, size


def parse(*words: str) -> argparse.Namespace:
    return build_parser().parse_args(words)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    folder = tmp_path / "profile"
    synthetic_profile().save(folder)
    return folder


def test_options_left_out_are_the_settings_defaults() -> None:
    assert read_selection(parse("select", "P")) == SelectionConfig()
    assert read_weights(parse("weights", "P")) == WeightsConfig()
    found = read_profile(parse("profile", "--forget", "a", "--retain", "b"))
    assert found == ProfileConfig(forget=SetConfig(source="a"), retain=SetConfig(source="b"))


def test_every_field_has_its_option() -> None:
    options = parse(
        *("weights", "P", "--score", "z", "--statistic", "gate_mass", "--scope", "global"),
        *("--top-k", "5", "--threshold", "0.1", "--share", "0.25", "--no-floor"),
        *("--layers", "0", "3", "--add", "1:2", "--add", "3:17", "--remove", "0:0"),
        *("--rule", "mean", "--hardness", "0.4", "--ess-floor", "0.7", "--strength", "0.5"),
        *("--clip", "0.2", "10", "--normalise", "batch", "--routing", "frozen"),
    )
    assert read_selection(options) == SelectionConfig(
        score="z",
        statistic="gate_mass",
        scope="global",
        top_k=5,
        threshold=0.1,
        share=0.25,
        floor=False,
        layers=(0, 3),
        add=(Cell(1, 2), Cell(3, 17)),
        remove=(Cell(0, 0),),
    )
    assert read_weights(options) == WeightsConfig(
        rule="mean",
        hardness=0.4,
        ess_floor=0.7,
        strength=0.5,
        clip=(0.2, 10.0),
        normalise="batch",
        routing="frozen",
    )
    assert read_weights(parse("weights", "P", "--hardness", "auto")).hardness == "auto"


def test_profile_options_reach_model_and_sets() -> None:
    words = "profile --model M --dtype bfloat16 --forget f.csv --forget-text-field body"
    words += " --retain hub:o/n --retain-hub-config c --retain-limit 9 --count-bos --seed 3"
    found = read_profile(parse(*words.split()))
    assert (found.model.source, found.model.dtype) == ("M", "bfloat16")
    assert (found.forget.source, found.forget.text_field) == ("f.csv", "body")
    assert (found.retain.hub_config, found.retain.limit) == ("c", 9)
    assert (found.count_bos, found.seed) == (True, 3)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("select", "P", "--top-k", "0"), "top_k: "),
        (("weights", "P", "--clip", "2", "3"), "clip must satisfy"),
        (("weights", "P", "--hardness", "much"), "hardness"),
    ],
)
def test_refused_values_name_the_field(words: tuple[str, ...], sentence: str) -> None:
    options = parse(*words)
    with pytest.raises(InputError, match=sentence):
        (read_selection if words[0] == "select" else read_weights)(options)


@pytest.mark.parametrize("text", ["3", "a:b", "1:-2", ":"])
def test_a_cell_is_layer_colon_expert(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("select", "P", f"--add={text}")
    assert "expected LAYER:EXPERT" in capsys.readouterr().err


def test_an_audits_settings_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--kind", "audit"]) == 0
    text = capsys.readouterr().out
    assert parse_audit(yaml.safe_load(text)) == bundled_audit()
    assert "# Who audited." in text
    # How questions are asked follows from what they are, unless somebody says otherwise.
    other = parse_audit(
        yaml.safe_load(text.replace("demo:questions/test", "hub:cais/wmdp:wmdp-bio"))
    )
    assert (other.style, other.description) == ("letters", HARNESS_SENTENCE)
    assert main(["config", "--kind", "audit", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert parse_audit(data) == bundled_audit()
    assert parse_audit(data | {"questions": "sets/wmdp"}).description == HARNESS_SENTENCE


@pytest.mark.parametrize("kind", ["unlearn", "profile"])
def test_config_prints_yaml_that_reads_back(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--kind", kind]) == 0
    text = capsys.readouterr().out
    assert parse_config(yaml.safe_load(text)) == defaults(kind)
    assert "# Weights' precision; `auto` keeps" in text
    assert ("config --method NAME" in " ".join(text.split())) is (kind == "unlearn")
    assert main(["config", "--kind", kind, "--json"]) == 0
    assert parse_config(json.loads(capsys.readouterr().out)) == defaults(kind)


@pytest.mark.parametrize("method", METHODS)
def test_config_of_a_method_is_a_run_of_it(
    method: MethodName, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "--method", method]) == 0
    settings = parse_config(yaml.safe_load(capsys.readouterr().out))
    assert settings == defaults("unlearn", method)
    assert isinstance(settings, UnlearnConfig)
    assert settings.method == method
    for field, value in TUNED.get(method, UNTUNED).items():
        assert getattr(settings, field) == value
    check_answers(settings)


def test_a_method_belongs_to_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--kind", "profile", "--method", "npo"]) == 2
    assert "--method belongs to a run" in capsys.readouterr().err


def test_commented_yaml_keeps_lists_and_strange_names() -> None:
    settings = UnlearnConfig(
        name="a: # b\n'c' \"d\" é",
        forget=SetConfig(source="f"),
        retain=SetConfig(source="r"),
        selection=SelectionConfig(add=(Cell(1, 2),), layers=(0,)),
    )
    assert parse_config(yaml.safe_load(commented_yaml(settings))) == settings


def test_select_and_weights_without_torch_tables_and_json(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["select", str(profile), "--top-k", "1"]) == 0
    assert "experts selected" in capsys.readouterr().out
    assert main(["select", str(profile), "--top-k", "1", "--json"]) == 0
    selected = json.loads(capsys.readouterr().out)
    assert selected["cells"]
    out = tmp_path / "weights.json"
    assert main(["weights", str(profile), "--top-k", "1", "--out", str(out)]) == 0
    assert "effective sample size" in capsys.readouterr().out
    assert main(["weights", str(profile), "--top-k", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(out.read_text())


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    [line] = printed.err.strip().splitlines()
    return line


def test_refusals_are_one_sentence_and_exit_code_2(
    profile: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such profile" in refused(capsys, "select", "nowhere")
    assert "no such profile" in refused(capsys, "select", "a" * 64)
    assert "layer" in refused(capsys, "select", str(profile), "--layers", "99")
    assert "no such settings file" in refused(capsys, "unlearn", str(tmp_path / "x.yaml"))
    assert "is not a run id" in refused(capsys, "runs", "show", "nothing")
    assert "is not a run" in refused(capsys, "runs", "show", str(tmp_path))
    typo = tmp_path / "typo.yaml"
    typo.write_text("kind: unlearn\nforget: {source: a}\nretain: {source: b}\nlearning_rat: 1\n")
    assert "learning_rat" in refused(capsys, "unlearn", str(typo))
    other = tmp_path / "profile.yaml"
    other.write_text(to_yaml(light_config(tmp_path).profile_config()))
    assert "use `trace-moe profile`" in refused(capsys, "unlearn", str(other))
    assert not list(subfolder("runs", home).iterdir())


def test_a_file_that_cannot_be_used_is_one_sentence(
    profile: Path, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "cannot be read as a settings file" in refused(capsys, "unlearn", str(tmp_path))
    file = tmp_path / "file"
    file.write_text("")
    for place in ("/nope/x.json", str(file / "x.json"), str(profile)):
        for name in ("select", "weights"):
            line = refused(capsys, name, str(profile), "--top-k", "1", "--out", place)
            assert line.startswith(f"trace-moe: {place}: cannot be used (")
    settings = tmp_path / "run.yaml"
    settings.write_text(to_yaml(light_config(tmp_path)))
    for place in ("/proc/xx", str(file / "x")):
        assert "cannot be used (" in refused(capsys, "unlearn", str(settings), "--out", place)
    assert refused(capsys, "demo", "--out", "/proc/xx").endswith("(No such file or directory).")


def test_expert_hides_the_words_of_own_sets_until_asked(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Profile.load(profile)
    cell = ("--layer", str(kept.layers[0]), "--expert", "1")
    words = set(kept.token_text.values())
    assert main(["expert", str(profile), *cell]) == 0
    printed = capsys.readouterr().out
    assert "--reveal prints them" in printed
    assert "in context" not in printed
    assert main(["expert", str(profile), *cell, "--json"]) == 0
    hidden = json.loads(capsys.readouterr().out)
    assert hidden["contexts"] == {}
    assert {token["text"] for token in hidden["top_forget"] + hidden["top_retain"]} == {None}
    assert main(["expert", str(profile), *cell, "--reveal", "--examples", "2"]) == 0
    printed = capsys.readouterr().out
    assert "forget tokens in context" in printed
    assert "retain tokens in context" in printed
    assert main(["expert", str(profile), *cell, "--reveal", "--side", "forget", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown["contexts"]) == ["forget"]
    assert set(shown["contexts"]["forget"][0]["tokens"]) <= words
    assert "has no routed experts" in refused(
        capsys, "expert", str(profile), "--layer", "99", "--expert", "0"
    )


def test_expert_of_the_bundled_profile_shows_its_words(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["expert", str(PACK / "profile"), "--layer", "1", "--expert", "0"]) == 0
    printed = capsys.readouterr().out
    assert "forget tokens in context" in printed
    assert printed.count("[[") > 5


def test_runs_import(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDirectory(tmp_path / "mine")
    with run.create(light_config(tmp_path)):
        run.update(state="stopped", message="Stopped at step 3 of 60; saved.")
    assert main(["runs", "import", str(run.path)]) == 0
    name = capsys.readouterr().out.strip()
    (subfolder("runs", home) / "a copy").mkdir()
    assert main(["runs", "list"]) == 0
    printed = capsys.readouterr()
    assert name in printed.out
    assert "a copy" not in printed.out
    assert "`trace-moe runs import FOLDER`" in printed.err


def test_runs_list_show_delete(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "list"]) == 0
    assert capsys.readouterr().out == "(none)\n"
    run = RunDirectory(subfolder("runs", home) / "20260101-000000-abcdef")
    with run.create(light_config(tmp_path, name="evil\x1b[31m\u202e")):
        run.update(state="stopped", message="Stopped at step 3 of 60; saved.")
    assert main(["runs", "list"]) == 0
    printed = capsys.readouterr().out
    assert run.id in printed
    assert "\x1b" not in printed
    assert "\u202e" not in printed
    assert main(["runs", "list", "--json"]) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert (row["id"], row["state"], row["resumable"]) == (run.id, "stopped", True)
    for name in (run.id, str(run.path)):
        assert main(["runs", "show", name]) == 0
        assert "Stopped at step 3 of 60" in capsys.readouterr().out
    trainable = {"kind": "all", "parameters": 1200, "total": 4800, "share": 0.25}
    control = {"name": "shuffled_weights", "sentence": "Control: shuffled."}
    write_json(run.path / "facts.json", {"trainable": trainable, "control": control})
    assert main(["runs", "show", run.id]) == 0
    printed = capsys.readouterr().out
    assert "1,200 of 4,800 parameters train" in printed
    assert "Control: shuffled." in printed
    assert "nothing to stop" in refused(capsys, "runs", "stop", run.id)
    assert main(["runs", "delete", run.id]) == 0
    capsys.readouterr()
    assert "There is no run" in refused(capsys, "runs", "show", run.id)


def test_delete_leaves_a_folder_that_is_no_run(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("mine")
    assert "is not a run" in refused(capsys, "runs", "delete", str(precious))
    assert (precious / "thesis.tex").read_text() == "mine"


def test_progress_says_rate_and_time_left() -> None:
    progress = Progress("profiling forget set", 12_000, 48_000, "tokens", 8_100.4, 4.44)
    assert describe(progress) == (
        "profiling forget set: 12,000 of 48,000 tokens, 8,100 tokens/s, 4 s left"
    )
    slow = Progress("unlearning", 1, 60, "steps", 0.531, 4000.0)
    assert describe(slow) == "unlearning: 1 of 60 steps, 0.53 steps/s, 1 h 06 min left"
    assert [duration(x) for x in (59.4, 200, 7500)] == ["59 s", "3 min 20 s", "2 h 05 min"]


def test_tables_align_and_leave_gaps_empty(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, Any]] = [{"n": 5, "x": 0.5, "t": "a"}, {"n": 123, "x": None, "t": "bb"}]
    print_table(rows, ["n", "x", "t"])
    assert capsys.readouterr().out.splitlines() == [
        "  n       x  t",
        "  5  0.5000  a",
        "123          bb",
    ]


@pytest.mark.parametrize(
    "command",
    [("inspect", "M"), ("profile", "--forget", "f", "--retain", "r", "--out", "o")],
)
@pytest.mark.parametrize(
    ("option", "word", "known"),
    [
        ("--dtype", "int8", "dtype: must be 'auto', 'float32', 'bfloat16' or 'float16'"),
        ("--quantization", "2bit", "quantization: must be 'none', '8bit' or '4bit'"),
    ],
)
def test_a_word_that_is_not_known_is_one_sentence_that_names_those_that_are(
    command: tuple[str, ...], option: str, word: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, option, word]) == 2
    assert capsys.readouterr().err == f"trace-moe: {known} (found {word!r}).\n"
    if (command[0], option) == ("inspect", "--dtype"):
        assert main([*command, "--compare-dtype", word]) == 2
        assert capsys.readouterr().err == f"trace-moe: {known} (found {word!r}).\n"


def test_inspect_refuses_a_form_whose_package_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("gptqmodel") is not None:
        pytest.skip("what a missing package ends in")
    folder = save_tiny_olmoe(tmp_path)
    settings = json.loads((folder / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(settings))
    assert main(["inspect", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"trace-moe: {folder} is stored as gptq, and cannot be")
    assert "requires" in err


def test_inspect_prints_what_json_says(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tiny_olmoe())
    assert main(["inspect", folder, "--no-fingerprint", "--trial", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [site["router"] for site in found["sites"]] == ["softmax top-k"] * 2
    assert found["fingerprint"] == ""
    assert found["dtype_shift"] is None
    assert "building the model's outline" in printed.err
    assert main(["inspect", folder, "--no-fingerprint", "--trial"]) == 0
    text = capsys.readouterr().out
    for part in ("OlmoeForCausalLM", "experts per token", "softmax top-k", "the rest are estimates",
                 "free on cpu", "selected experts  yes", "auto takes grouped_mm"):  # fmt: skip
        assert part in text, part
    assert "fingerprint" not in text


def test_inspect_says_everything_of_a_model_that_does_not_fit_and_refuses_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trace_engine.models.inspection.machine_memory", lambda: Machine(1000))
    words = ["inspect", str(tiny_olmoe()), "--no-fingerprint"]
    assert main(words) == 2
    printed = capsys.readouterr()
    rows = [line.split() for line in printed.out.splitlines()]
    assert ["0", "to", "1", "8", "2", "softmax", "top-k"] in rows  # layers that are alike
    assert "Supported:" in printed.out
    assert re.match(r"trace-moe: .* of memory to load its weights", printed.err.splitlines()[-1])
    assert main([*words, "--json", "--compare-dtype", "bfloat16"]) == 2
    printed = capsys.readouterr()
    assert printed.err.endswith(f"trace-moe: {json.loads(printed.out)['memory_problem']}\n")


def test_inspect_says_everything_when_the_trial_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trace_engine.models.trial.machine_memory", lambda: Machine(1000))
    assert main(["inspect", str(tiny_olmoe()), "--no-fingerprint", "--trial", "--json"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["memory_problem"], found["trial"]) == (None, None)
    assert "Nothing was timed" in found["trial_problem"]
    assert printed.err.endswith(f"trace-moe: {found['trial_problem']}\n")


def test_inspect_compares_precisions_and_states_n(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = tmp_path / "d.txt"
    documents.write_text("some words\n\nother words\n")
    words = ["inspect", str(tiny_olmoe()), "--dtype", "bfloat16", "--compare-dtype", "float32"]
    assert main([*words, "--documents", str(documents)]) == 0
    assert "bfloat16 against float32, on 2 documents of" in capsys.readouterr().out


def test_inspect_times_the_experts_when_the_settings_ask_for_a_trial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trace_engine.models.trial.SECONDS", 0.01)
    assert main(["inspect", str(tiny_olmoe()), "--experts-implementation", "trial"]) == 0
    assert "Fastest here:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_anywhere_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*anything: object, **named: object) -> None:
        raise error

    monkeypatch.setattr("trace_engine.cli.inspecting.inspect_closely", fail)
    assert main(["inspect", "demo:target"]) == 2
    assert capsys.readouterr().err.startswith("trace-moe: memory ran out. Close other programs")


def test_another_error_of_the_engine_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*anything: object, **named: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("trace_engine.cli.inspecting.inspect_closely", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        main(["inspect", "demo:target"])


def test_inspect_refuses_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(tmp_path), "--json"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "has no config.json" in printed.err.splitlines()[-1]


def test_a_profile_in_bfloat16_counts_every_choice_on_the_cpu(
    home: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Precision is a choice from the command line to the saved counts."""
    for side, texts in (("forget", "abc def\n\nghi"), ("retain", "jkl mno pqr\n\nstu")):
        (tmp_path / f"{side}.txt").write_text(texts)
    words = ["profile", "--model", str(tiny_olmoe()), "--device", "cpu", "--json"]
    words += ["--forget", str(tmp_path / "forget.txt"), "--retain", str(tmp_path / "retain.txt")]
    words += ["--permutations", "99", "--bootstrap", "100"]
    found = {}
    for dtype in ("bfloat16", "float32"):
        out = tmp_path / dtype
        assert main([*words, "--dtype", dtype, "--out", str(out)]) == 0
        found[dtype] = json.loads(capsys.readouterr().out)
        saved = Profile.load(out)
        assert saved.meta["model"]["dtype"] == dtype
        assert (saved.forget.counts_DLE.sum(axis=2) == 2 * saved.forget.tokens_D[:, None]).all()
    assert found["bfloat16"]["key"] != found["float32"]["key"]
    assert found["float32"]["experts_implementation"] == "grouped_mm"
    assert found["float32"]["trial"] is None
    monkeypatch.setattr("trace_engine.models.trial.SECONDS", 0.01)
    assert main([*words, "--dtype", "float32", "--experts-implementation", "trial"]) == 0
    timed = json.loads(capsys.readouterr().out)
    assert timed["trial"].startswith(f"Experts run as {timed['experts_implementation']}, picked")
    # How much that precision moves is a command away, and the output says which.
    assert found["float32"]["compare_dtype"] is None
    command = shlex.split(found["bfloat16"]["compare_dtype"])
    assert command[0] == "trace-moe"
    assert main([*command[1:], "--documents", str(tmp_path / "retain.txt")]) == 0
    assert "of the counts move" in capsys.readouterr().out
    words.remove("--json")
    assert main([*words, "--dtype", "bfloat16"]) == 0
    assert f"move on a sample: {found['bfloat16']['compare_dtype']}" in capsys.readouterr().out


def test_sizes_reach_the_terminal_with_their_space_and_control_characters_do_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"value": size(17 * 2**20)}, {"value": "a\x1b[31mb"}]
    print_table(rows, ["value"])
    printed = capsys.readouterr().out
    assert f"17{NBSP}MiB" in printed
    assert "a�[31mb" in printed


def test_a_place_that_cannot_be_written_is_refused_before_profiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trace_engine.cli.profiling.ProfileAnswer", None)
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    out = tmp_path / "file" / "profile"
    words = ["profile", "--forget", "demo:forget", "--retain", "demo:retain", "--out", str(out)]
    assert main(words) == 2
    assert "cannot be written" in capsys.readouterr().err
