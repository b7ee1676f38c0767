"""The command line: parses, dispatches, and turns a refusal into one sentence and exit code 2.

Each command is a function of its parsed options in a module of this room, imported when it is
called, so that `trace-moe runs list` never loads torch. It accepts argparse's plain look for having
no dependency.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import get_args

import trace_engine
from trace_engine.causal.settings import CausalConfig
from trace_engine.cli.ablating import ABLATE_FIELDS, REROUTED_FIELDS
from trace_engine.cli.options import (
    add_fields,
    add_json,
    add_model,
    add_selection,
    add_sets,
    add_weights,
    cell,
)
from trace_engine.config import TrackerName
from trace_engine.errors import AlreadySaidError, TraceError
from trace_engine.exhaustion import ran_out
from trace_engine.methods import METHODS
from trace_engine.threads import wait_briefly

REFUSED, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: a refusal with its sentence; a run that ended otherwise than done; Ctrl-C."""

OUT_OF_MEMORY = (
    "memory ran out. Close other programs, raise this process's limit (ulimit -v) where there is "
    "one, or take a machine with more memory."
)

KINDS = ("unlearn", "profile", "bench", "audit")
"""Kinds of settings files."""

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of `trace-moe`; returns the exit code."""
    # transformers' bars would interleave with ours; must be set before it is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    wait_briefly(os.environ)
    options = _parse(arguments)
    module, function = options.command.split(":")
    command: Command = getattr(import_module(f"trace_engine.cli.{module}"), function)
    try:
        return command(options)
    except AlreadySaidError:
        return REFUSED
    except TraceError as error:
        print(f"trace-moe: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output (`| head`) has enough. Python would complain at exit once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        print(f"trace-moe: {OUT_OF_MEMORY}", file=sys.stderr)
        return REFUSED
    except OSError as error:
        if ran_out(error):
            print(f"trace-moe: {OUT_OF_MEMORY}", file=sys.stderr)
            return REFUSED
        # A file that cannot be used is named by the system; anything else is a bug of ours.
        if error.filename is None or error.strerror is None:
            raise
        name = os.fsdecode(error.filename)
        print(f"trace-moe: {name}: cannot be used ({error.strerror}).", file=sys.stderr)
        return REFUSED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    if os.environ.get("RANK", "0") == "0":
        return parser.parse_args(arguments)
    # Every process that torchrun starts is given the same words; one is enough to complain.
    with Path(os.devnull).open("w") as silence, redirect_stderr(silence), redirect_stdout(silence):
        return parser.parse_args(arguments)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0, found {text!r}")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(
        prog="trace-moe",
        description="Which experts of a Mixture-of-Experts model carry a body of knowledge, and "
        "can it be removed without breaking the rest?",
    )
    parser.add_argument("--version", action="version", version=trace_engine.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, target: str, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(command=target)
        add_json(added)
        return added

    doctor = command("doctor", "watching:doctor", "Is this machine fit? A line a check.")
    doctor.add_argument(
        "--self-test",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="also profile and train a tiny random model, about 10 seconds",
    )
    command("status", "watching:status", "What the machine does now: runs, queue, disk, memory.")

    inspect = command("inspect", "inspecting:inspect", "What a model is, and where it routes.")
    add_model(inspect, positional=True)
    inspect.add_argument(
        "--fingerprint",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hash the weights' files, which takes a while for large ones",
    )
    inspect.add_argument(
        "--trial",
        action="store_true",
        help="time the ways to multiply the experts, on this machine",
    )
    inspect.add_argument(
        "--compare-dtype",
        metavar="{float32,bfloat16,float16}",
        help="also load the model in this precision and say how many choices differ",
    )
    inspect.add_argument(
        "--documents", default="demo:retain", help="the set to compare precisions on"
    )

    profile = command("profile", "profiling:profile", "Count where two sets are routed.")
    add_model(profile)
    add_sets(profile)
    profile.add_argument("--out", type=Path, help="copy the profile to this new folder")

    select = command("select", "calibrating:select", "Choose forget-critical experts.")
    select.add_argument("profile", help="a profile's folder, or its key")
    add_selection(select)
    select.add_argument("--out", type=Path, help="write the selection to this JSON file")

    weights = command("weights", "calibrating:weights", "Fit token weights and show their effect.")
    weights.add_argument("profile", help="a profile's folder, or its key")
    add_selection(weights)
    add_weights(weights)
    weights.add_argument("--out", type=Path, help="write the fit to this JSON file")

    expert = command("expert", "showing:expert", "One expert: its card, its tokens in context.")
    expert.add_argument("profile", help="a profile's folder, or its key")
    expert.add_argument("--layer", type=int, required=True, help="true decoder layer number")
    expert.add_argument("--expert", type=int, required=True, help="index inside the layer")
    expert.add_argument("--side", choices=("forget", "retain"), help="words of one side only")
    expert.add_argument("--examples", type=_count, default=5, help="contexts per side (default 5)")
    expert.add_argument(
        "--reveal", action="store_true", help="print words of your own sets, maybe hazardous"
    )

    know = command("know", "knowing:know", "Whether the model knows the forget set, before a run.")
    know.add_argument("config", type=Path, help="the run's settings file")

    unlearn = command("unlearn", "running:unlearn", "Run a settings file, here or in background.")
    unlearn.add_argument("config", type=Path, help="a YAML file as `trace-moe config` prints it")
    unlearn.add_argument("--out", type=Path, help="the run's folder (default: under the home)")
    unlearn.add_argument(
        "--trackers",
        nargs="*",
        choices=get_args(TrackerName),
        help="mirror the rows there, whatever the file says; none after it: nowhere",
    )
    unlearn.add_argument("--background", action="store_true", help="return at once")

    sweep = command("sweep", "sweeping:sweep", "Every combination of a few values, as runs.")
    sweep.add_argument(
        "config", type=Path, help="the settings that all points share, or a sweep's own file"
    )
    sweep.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="what varies: selection.top_k=1,2,4; repeatable",
    )
    sweep.add_argument("--name", default="", help="a label for lists and the runs' names")
    sweep.add_argument("--out", type=Path, help="write the points to this new or empty folder")
    sweep.add_argument("--background", action="store_true", help="return at once")
    sweep.add_argument("--plan", action="store_true", help="only say which runs it would make")

    export = command("export", "exporting:export", "A finished run as a folder to give away.")
    export.add_argument("run", help="a run's id, or its folder")
    export.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    forms = export.add_mutually_exclusive_group()
    for form, text in (
        ("merged", "the whole model, opened by plain transformers (default)"),
        ("adapter", "LoRA's adapter alone, opened by PEFT on the start model"),
    ):
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=text)

    evaluate = command(
        "evaluate", "evaluating:evaluate_model", "Figures of a model, with intervals."
    )
    add_model(evaluate, positional=True)
    evaluate.add_argument(
        "--metrics",
        nargs="+",
        metavar="METRIC",
        help="accuracy loss memorisation membership muse tofu (default: all with their material)",
    )
    evaluate.add_argument(
        "--questions",
        action="append",
        default=[],
        help="multiple-choice file, folder of a published set, hub:owner/name:config; repeatable",
    )
    evaluate.add_argument("--split", default="test", help="which split of a published set")
    evaluate.add_argument("--style", choices=("continuation", "letters"), default="continuation")
    evaluate.add_argument(
        "--description",
        default="",
        help="stands before every question; {subject} in it is what the question's category is "
        "about, \\n ends a line",
    )
    evaluate.add_argument(
        "--set", action="append", default=[], help="documents to take the loss of; repeatable"
    )
    evaluate.add_argument("--forget", help="what was to be forgotten: memorisation, membership")
    evaluate.add_argument("--holdout", help="documents alike that were never trained on")
    evaluate.add_argument("--muse", help="a corpus of MUSE: folder, hub:owner/name, demo:book")
    evaluate.add_argument("--tofu", help="the sets of TOFU: folder, hub:locuslab/TOFU")
    evaluate.add_argument("--tofu-forget", default="forget10", help="forget01, forget05, forget10")
    evaluate.add_argument(
        "--prompt", help="how MUSE and TOFU ask, with {question} in it; \\n ends a line"
    )
    evaluate.add_argument("--reference", help="a model that never saw the forget set")
    evaluate.add_argument(
        "--max-length", type=_count, help="tokens per document (default 256; TOFU 512; MUSE 4096)"
    )

    ablate = command("ablate", "ablating:ablate", "What hangs on an expert: ask without it.")
    add_model(ablate)
    ablate.add_argument(
        "--cell",
        type=cell,
        action="append",
        default=[],
        metavar="LAYER:EXPERT",
        help="take these out together; repeatable (default: every expert by itself)",
    )
    rerouted = command("rerouted", "ablating:rerouted", "Erased, or re-routed? Four tests.")
    add_model(rerouted)
    rerouted.add_argument("--before", required=True, help="the old model, of the same architecture")
    rerouted.add_argument("--reference", help="a model that never saw the forget set")
    for added, names in ((ablate, ABLATE_FIELDS), (rerouted, REROUTED_FIELDS)):
        add_fields(added, CausalConfig, names)
        added.add_argument("--out", type=Path, help="also write the result, as JSON")

    attack = command("attack", "attacking:attack", "Does knowledge come back? Attacks on a model.")
    add_model(attack, positional=True)
    for side, text in (("forget", "what was to be forgotten"), ("retain", "what was to stay")):
        attack.add_argument(
            f"--{side}",
            help=f"{text} (default demo:{side}, for the bundled model and questions alone)",
        )
    attack.add_argument("--questions", required=True, help="multiple-choice questions about both")
    attack.add_argument(
        "--forget-category",
        default="hazard",
        help="category of the forget questions; every other one is utility (default hazard)",
    )
    # Its name in earlier versions.
    attack.add_argument(
        "--category", dest="forget_category", default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )
    attack.add_argument(
        "--max-questions", type=_count, help="at most so many a category (default: all)"
    )
    attack.add_argument(
        "--style",
        default=argparse.SUPPRESS,
        metavar="{continuation,letters}",
        help="score each choice's own words, or the letters A-D (default: letters where questions "
        "or category are named after WMDP or MMLU, else continuation)",
    )
    attack.add_argument(
        "--description",
        default=argparse.SUPPRESS,
        help="stands before every question; {subject} in it is what the question's category is "
        "about, \\n ends a line (default: the harness's sentence before WMDP and MMLU, unless "
        "--style is given; else nothing)",
    )
    attack.add_argument(
        "--seed", type=_count, default=0, help="draws questions and documents (default 0)"
    )
    attack.add_argument(
        "--threads", type=_count, help="CPU threads; the same number gives the same bits"
    )
    attack.add_argument("--reference", help="a model that never saw the forget set, attacked alike")
    attack.add_argument(
        "--attacks",
        nargs="+",
        metavar="ATTACK",
        help="relearning recovery quantisation paraphrases prefixes (default: all)",
    )
    attack.add_argument("--out", type=Path, required=True, help="a folder; the same one goes on")

    audit = command("audit", "auditing:audit", "What may be claimed of a model, as a report.")
    audit.add_argument("config", type=Path, help="as `trace-moe config --kind audit` prints it")
    audit.add_argument(
        "--out", type=Path, required=True, help="the report's folder; the same one goes on"
    )
    verify = command("verify", "auditing:verify", "Check a report: hashes and a sample of figures.")
    verify.add_argument("folder", type=Path, help="what `trace-moe audit` wrote, or demo:audit")
    verify.add_argument(
        "--config", type=Path, help="its settings, where models and sets lie elsewhere by now"
    )
    verify.add_argument(
        "--sample", type=_count, default=40, help="questions asked again (default 40)"
    )
    verify.add_argument("--seed", type=_count, help="draws the sample (default: by chance)")
    verify.add_argument(
        "--recompute",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="open models and sets; without, only files are compared",
    )
    verify.add_argument(
        "--thorough",
        action="store_true",
        help="train again too, for one of the report's seeds, and make map, drift and ablations "
        "again: takes as long as it took",
    )

    demo = command("demo", "demonstrating:demo", "The whole story on the bundled model.")
    demo.add_argument("--out", type=Path, required=True, help="a new or empty folder")
    demo.add_argument("--steps", type=int, default=60)

    bench = command("bench", "benching:bench", "A table of methods and weightings, with intervals.")
    bench.add_argument("--pack", choices=("demo",), default="demo", help="the bundled table")
    bench.add_argument("--config", type=Path, help="your own table's file, instead of the pack's")
    bench.add_argument(
        "--out",
        type=Path,
        help="its folder; the same one goes on (default: tables/ of the data folder, by the file's "
        "name, where Compare finds it)",
    )
    bench.add_argument("--seeds", type=_count, help="test runs per row, instead of the file's")
    bench.add_argument("--budget", type=_count, help="settings tried per row, likewise")
    bench.add_argument(
        "--workers", type=_count, help="processes (default: as many as processors and memory hold)"
    )
    for name, text in (
        ("retain", "retain sets"),
        ("methods", "methods"),
        ("weightings", "weightings"),
    ):
        bench.add_argument(f"--{name}", nargs="+", default=[], help=f"only these {text}")
    bench.add_argument("--plan", action="store_true", help="only say how many runs are left")
    bench.add_argument(
        "--computed",
        action="store_true",
        help="compute nothing: the table of the rows that are there, the others named",
    )

    config = command("config", "configuring:config", "Print a commented settings file.")
    config.add_argument("--kind", choices=KINDS, default="unlearn")
    config.add_argument(
        "--method",
        choices=tuple(METHODS),
        help="a run's forget method, with what is tuned for it and the bundled model (default npo)",
    )

    sweeps = commands.add_parser("sweeps", help="List, show, stop, resume or forget sweeps.")
    actions = sweeps.add_subparsers(required=True, metavar="ACTION")
    for name, text in (
        ("list", "All sweeps, newest first."),
        ("show", "One sweep: its points and their front."),
        ("stop", "Stop its runs, which save, and end."),
        ("resume", "Make what is missing."),
        ("delete", "Forget a sweep; its runs stay."),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.set_defaults(command=f"sweeping:sweeps_{name}")
        add_json(action)
        if name != "list":
            action.add_argument("sweep", help="a sweep's id")
        if name == "resume":
            action.add_argument("--background", action="store_true", help="return at once")

    runs = commands.add_parser("runs", help="List, show, stop, resume, import or delete runs.")
    actions = runs.add_subparsers(required=True, metavar="ACTION")
    for name, text in (
        ("list", "All runs, newest first."),
        ("show", "One run: state, curve, notes."),
        ("log", "What happened to a run and when, an event a line."),
        ("stop", "Finish the step, save, end."),
        ("resume", "Continue a run that ended before it was done."),
        ("import", "Copy a run's folder under the home, where lists and pages find it."),
        ("delete", "Remove a run that nobody works on."),
    ):
        action = actions.add_parser(name, help=text, description=text)
        module = "watching" if name == "log" else "running"
        action.set_defaults(command=f"{module}:runs_{name}")
        add_json(action)
        if name != "list":
            named = "a run's folder" if name == "import" else "a run's id, or its folder"
            action.add_argument("run", help=named)
        if name == "resume":
            action.add_argument("--background", action="store_true", help="return at once")
        if name == "stop":
            action.add_argument("--force", action="store_true", help="end it at once, unsaved")
    return parser
