"""Mutated input for every reader that takes a stranger's bytes: text sets, questions, settings of
runs, tables, sweeps and audits, published benchmarks' folders, reports to be verified.

A mutation is a few small edits of a valid input (bytes flipped, cut, doubled, spliced with another
input, replaced by what parsers trip over), by a seed, so that a finding can be had again.
"""

import csv
import io
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from app import bench_view
from tests.security import reports
from tests.support.bombs import parquet_bomb
from trace_engine.audit.settings import read_audit
from trace_engine.benchmark import read_bench, read_table
from trace_engine.bundled import PACK
from trace_engine.config import read_config
from trace_engine.disk import read_last_line, read_lines
from trace_engine.errors import InputError, ModelError, RunError
from trace_engine.models.files import locate
from trace_engine.routing.storage import read_head
from trace_engine.sets import Document, parse_documents, read_questions
from trace_engine.sets.lines import PIECES, file_documents
from trace_engine.sets.muse import read_muse
from trace_engine.sets.tofu import read_tofu
from trace_engine.sweeps.file import read_sweep
from trace_engine.sweeps.plan import plan_sweep

ROWS = [
    {"text": "A sentence with numbers, 1 and 2.", "id": "a"},
    {"text": "Zeilen mit Umlauten: äöü, 日本語.", "id": "b"},
    {"text": 'Quotes " and, commas\nand a second line.', "id": "c"},
]
ANSWERS = [{"question": "What is it?", "answer": "It is a test.", "prompt": "Say: "}] * 2
QUESTIONS = [
    {"question": "Two and two?", "choices": ["four", "five"], "answer": 0, "category": "hazard"},
    {"question": "A colour?", "choices": ["red", "three"], "answer": "A", "category": "general"},
]
SETTINGS = """kind: unlearn
name: a run
model: {source: demo:target, dtype: auto}
forget: {source: demo:forget, limit: 10}
retain: {source: demo:retain}
method: npo
beta: 0.1
selection: {scope: per_layer, top_k: 2, add: [[0, 1]]}
weights: {rule: exact, hardness: auto, clip: [0.1, 10.0]}
trainable: {kind: lora, lora_rank: 4}
evaluation: {every: 5, questions: null}
"""
TABLE = """settings: {model: {source: demo:target}, forget: {source: demo:forget}}
validation: demo:questions/validation
test: demo:questions/test
retain: {mixed: {parts: [{source: demo:retain}]}}
methods: {npo: {settings: {method: npo}, grid: {alpha: [1, 2], learning_rate: [0.1, 0.2, 0.3]}}}
weightings: {uniform: {role: baseline}}
"""
AUDIT = """kind: audit
name: an audit
model: {source: demo:target}
reference: {source: demo:retrain_no_hazard}
forget: {source: demo:forget, limit: 10}
retain: {source: demo:retain}
questions: demo:questions/validation
forget_category: hazard
max_questions: 20
published: {muse: demo:book, tofu: sets/TOFU, prompt: "{question}", max_items: 5}
parts: [questions, drift]
causal: {experts: 2, draws: 20, permutations: 99}
relearning: {steps: 2, ask_at: [2], seeds: [0]}
asking: {templates: ["say, {question}:"], prefixes: ["Please. "]}
form: {auditor: somebody, date: 2026-01-01}
"""
SWEEP = """name: a sweep
grids:
- {selection.top_k: [1, 2], weights.rule: [mean, exact]}
- {learning_rate: [0.1, 0.2], "weights.clip": [[0.1, 20]]}
base:
  model: {source: demo:target}
  forget: {source: demo:forget}
  retain: {source: demo:retain}
  max_steps: 5
"""
TOFU = [
    {
        "question": "Who wrote it?",
        "answer": "She did.",
        "paraphrased_answer": "It was she.",
        "perturbed_answer": ["He did.", "They did."],
    }
] * 2
MUSE = [{"question": "Who?", "answer": "She.", "prompt": "Once", "gt": "upon a time", "text": "A."}]
NASTY = [
    *(b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\r", b"\r\n\r\n", b"\x1a", b"\x85"),
    *(b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"\\", b"\\u0000", b"\\ud800", b"&a ", b"*a"),
    *(b"null", b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 400, b"true", b"0x10", b"2024-01-01"),
    *(b"!!python/object:os.system", b"<<: *a", b"../" * 9, b"/etc/passwd", b"file://", b"=cmd()"),
    *(b"[" * 3000, b'{"a":' * 2000, b"- " * 1500, b"<script>", b"%00", b"demo:", b"hf:", b"~root"),
]


def _parquet(rows: list[dict[str, object]]) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), stream)
    return stream.getvalue()


def _csv() -> bytes:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, ["id", "text"])
    writer.writeheader()
    writer.writerows(ROWS)
    return stream.getvalue().encode()


def _lines(rows: Sequence[Mapping[str, object]]) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


def mutated(chance: random.Random, seeds: list[bytes]) -> bytes:
    """One to four edits of one of the seeds."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice([1, 2, 8, 64]))
        edit = chance.randrange(6)
        if edit == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
        elif edit == 1:
            del data[at:end]
        elif edit == 2:
            data[at:at] = data[at:end] * chance.choice([1, 2, 50])
        elif edit == 3:
            data[at:end] = chance.choice(NASTY)
        elif edit == 4:
            other = chance.choice(seeds)
            data[at:at] = other[chance.randrange(len(other)) :][:64]
        else:
            data = data[:at]
    return bytes(data)


class Target(NamedTuple):
    """A reader, valid inputs for it, and how much of all mutations it gets."""

    read: Callable[[bytes, Path], object]
    """Takes the bytes and a folder of its own; raises nothing but InputError."""
    seeds: list[bytes]
    share: float
    mutate: Callable[[random.Random, list[bytes]], bytes] = mutated


def _documents(suffix: str) -> Callable[[bytes, Path], object]:
    """Whole, as an upload is, and where it can be piece by piece, as a folder's file is: alike."""

    def read(data: bytes, folder: Path) -> object:
        label = f"set{suffix}"
        whole = _outcome(lambda: parse_documents(label, data))
        if suffix in PIECES:
            path = folder / label
            path.write_bytes(data)
            pieces = _outcome(lambda: list(file_documents(label, path, None)))
            # Of two faults the one or the other may be met first.
            assert isinstance(whole, list) == isinstance(pieces, list), (whole, pieces)
            assert isinstance(whole, InputError) or len(whole) == len(pieces)
        if isinstance(whole, InputError):
            raise whole
        return whole

    return read


def _upload(data: bytes, _: Path) -> object:
    return parse_documents("set.parquet", data)


def _outcome(read: Callable[[], list[Document]]) -> list[Document] | InputError:
    try:
        return read()
    except InputError as error:
        return error


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def from_bytes(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return from_bytes


def _model(data: bytes, folder: Path) -> object:
    for name, tensor in (("one", "a"), ("two", "b")):
        if not (folder / f"{name}.safetensors").exists():
            save_file({tensor: torch.zeros(1)}, folder / f"{name}.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "config.json").write_bytes(data)
    (folder / "model.safetensors.index.json").write_bytes(data)
    try:
        return locate(str(folder), None)
    except ModelError as error:
        raise InputError(str(error)) from None


def _run_rows(data: bytes, folder: Path) -> object:
    path = folder / "metrics.jsonl"
    path.write_bytes(data)
    read_last_line(path)
    try:
        return read_lines(path)
    except RunError as error:
        raise InputError(str(error)) from None


def _small_table() -> dict[str, bytes]:
    """The bundled table's files, two rows of it."""
    folder = PACK / "benchmark"
    summary = json.loads((folder / "table.json").read_text("utf-8"))
    summary["rows"] = summary["rows"][:2]
    small = {"table.json": json.dumps(summary).encode()}
    for name in ("table.csv", "same-settings.csv"):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        small[name] = b"".join(lines[:12])
    return small


def _profile(data: bytes, folder: Path) -> object:
    (folder / "profile.json").write_bytes(data)
    return read_head(folder)


def _sweep(path: Path) -> object:
    base, grids, name = read_sweep(path)
    return plan_sweep(base, grids, name)


def _tofu(suffix: str) -> Callable[[bytes, Path], object]:
    return _file(f"forget10_perturbed{suffix}", lambda path: read_tofu(str(path.parent)))


def _muse(data: bytes, folder: Path) -> object:
    for part in ("verbmem/forget", "knowmem/forget_qa", "privleak/holdout"):
        path = folder / f"{part}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return read_muse(str(folder))


def _stored(mutated: str) -> Callable[[bytes, Path], object]:
    """A table's folder with one mutated file; what is read is drawn as far as it is text."""

    def read(data: bytes, folder: Path) -> object:
        for name, content in STORED.items():
            (folder / name).write_bytes(data if name == mutated else content)
        try:
            table = read_table(folder)
        except RunError as error:
            raise InputError(str(error)) from None
        if table is None:
            return None
        drawn = bench_view.differences(table)
        return (
            [bench_view.headline(found) for found in table.summary["headlines"]],
            bench_view.lines(table),
            bench_view.verdict(drawn, table.config.compare_to),
            [] if table.same.empty else bench_view.same_lines(table.same),
        )

    return read


METRICS = b'{"step": 1, "kind": "train", "loss": 1.5}\n{"step": 2, "kind": "train", "loss": null}\n'
INDEX = b'{"model_type": "olmoe", "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}'
HEAD = (PACK / "profile" / "profile.json").read_bytes()

STORED = _small_table()

TARGETS = {
    "jsonl": Target(_documents(".jsonl"), [_lines(ROWS), _lines(ANSWERS)], 0.2),
    "json": Target(_documents(".json"), [json.dumps(ROWS).encode(), b'["one", "two"]'], 0.2),
    "csv": Target(_documents(".csv"), [_csv()], 0.15),
    "parquet": Target(_documents(".parquet"), [_parquet(list(ROWS))], 0.1),
    "parquet bomb": Target(_upload, [parquet_bomb(rows=20)], 0.01),
    "txt": Target(_documents(".txt"), [b"Ein Satz.\n\nNoch einer."], 0.05),
    "questions": Target(_file("questions.jsonl", read_questions), [_lines(QUESTIONS)], 0.1),
    "settings": Target(_file("run.yaml", read_config), [SETTINGS.encode()], 0.1),
    "audit": Target(_file("audit.yaml", read_audit), [AUDIT.encode()], 0.04),
    "sweep": Target(_file("sweep.yaml", _sweep), [SWEEP.encode()], 0.03),
    "tofu": Target(_tofu(".json"), [_lines(TOFU), json.dumps(TOFU).encode()], 0.03),
    "tofu as a table": Target(_tofu(".parquet"), [_parquet(TOFU)], 0.01),
    "muse": Target(_muse, [json.dumps(MUSE).encode(), _lines(MUSE * 2)], 0.03),
    "table": Target(_file("bench.yaml", read_bench), [TABLE.encode()], 0.04),
    "table.json": Target(_stored("table.json"), [STORED["table.json"]], 0.01),
    "table.csv": Target(_stored("table.csv"), [STORED["table.csv"]], 0.01),
    "same-settings.csv": Target(_stored("same-settings.csv"), [STORED["same-settings.csv"]], 0.005),
    "model folder": Target(_model, [INDEX], 0.03),
    "run's rows": Target(_run_rows, [METRICS], 0.02),
    "profile": Target(_profile, [HEAD], 0.01),
    "audit's report": Target(reports.read, reports.seeds(), 0.005, reports.mutated),
}


def read_or_refuse(target: Target, data: bytes, folder: Path) -> str:
    """`read`, or the sentence of the refusal; whatever else happens is raised."""
    try:
        target.read(data, folder)
    except InputError as error:
        return str(error)
    return "read"
