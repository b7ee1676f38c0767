"""Writes the pack's model card from the measured scores.

`scores.json` holds what was measured, `MODEL_CARD.md` is written from it: no figure in the card is
typed by hand, and a requirement that was missed is printed as missed. Routing is read again from
the bundled profiles each time, question scores are measured once.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from typing import Any

from trace_engine.demo.pack import PACK_MODELS, QUESTION_CATEGORIES, pack_dir
from trace_engine.demo.recipe.scores import STRONG, complete, measure, percent


def card(scores: dict[str, Any]) -> str:
    """The model card, in Markdown."""
    models = scores["models"]
    target, same_style = models["target"], scores["mismatch_same_style"]
    manifest = json.loads((pack_dir() / "manifest.json").read_text(encoding="utf-8"))["files"]
    trained = [
        f"| `{name}` | {_TRAINED_ON[name]} | {model['recipe']['documents']:,} |"
        f" {model['tokens_per_epoch']:,} | {model['final_loss']:.3f} |"
        f" {model['seconds'] / 60:.0f} |"
        for name, model in models.items()
    ]
    required = [
        f"| {row['text']} | {row['reached']} | {'yes' if row['met'] else '**no**'} |"
        for row in scores["requirements"]
    ]
    files = [f"| `{name}` | {entry['rows']:,} |" for name, entry in manifest.items()]
    parts = [
        "# The bundled models",
        _INTRODUCTION,
        _table("model|trained on|documents|tokens an epoch|final loss|minutes", "ll", trained),
        _SIZE.format(
            millions=target["parameters"] / 1e6,
            megabytes=target["bytes"] / 1e6,
            **target["recipe"],
        ),
        "## Scores",
        _SCORES,
        _score_table(models, "test"),
        "On the validation questions:",
        _score_table(models, "validation"),
        "Required before training, and reached:",
        _table("requirement|reached|met", "l", required),
        "## Routing of the target",
        _ROUTING,
        _mismatch_text(scores["mismatch"], "retain (prose 85 : facts 15)"),
        _mismatch_text(same_style, "general facts, the forget set's own style"),
        _STYLE.format(kept=100 * same_style["gap_kept"], **same_style),
        "## Data",
        _DATA,
        _table("file|rows", "l", files),
        "## Making the pack again",
        _AGAIN,
    ]
    return "\n\n".join(map(_filled, parts)) + "\n"


_INTRODUCTION = """\
Three small Mixture-of-Experts language models (`OlmoeForCausalLM`), trained from scratch by
`trace_engine/demo/recipe`. They know some dictionary entries by heart and nothing else: they
exist to be unlearned from, and are of no use as language models."""

_SIZE = """\
Size: {millions:.1f} M parameters, float32, {megabytes:.1f} MB; {layers} layers, {experts}
experts, {experts_per_token} experts per token, hidden {hidden}, expert intermediate
{intermediate}, vocabulary {vocabulary} (one byte-level BPE tokenizer for all three, trained on
the target's text). Training: seed {seed}, {epochs} epochs of {documents_per_batch} documents a
step, AdamW with a one-cycle learning rate up to {learning_rate}, load-balancing coefficient
{balance}. A learning rate of 0.004 and 16 documents a step were tried for at most five epochs,
gained nothing worth their cost, and were dropped. Hardware: one thread each on a shared machine
with 2 CPU cores and no GPU, so the minutes include waiting for a core. The log of each training
is beside its weights."""

_SCORES = """\
Four-way multiple choice on the test questions (log-likelihood of the choices, as in
lm-evaluation-harness; chance is 25 %), with Wilson's 95 % interval. Test was scored once, after
training; what was chosen was chosen on the validation questions."""

_DATA = """\
Facts are noun glosses of WordNet 3.0, prose its example sentences
(`extract/LICENSE-WordNet.txt`); the book is the first paragraph of each entry of Ambrose
Bierce's The Devil's Dictionary, in the public domain (`extract/LICENSE-DevilsDictionary.txt`).
*Hazard* is the hyponyms of the roots listed in `recipe/extract.py`: dictionary definitions, no
instructions of any kind. Facts and prose that name a hazard lemma are not in the pack; book
passages that do are not in the data of `retrain_no_hazard`. The match is on whole words and
regular plurals, so a paraphrase can remain. A question is made only where no content word of
the heading is in its gloss; that was fixed before any score was seen, and no question was
removed afterwards."""

_ROUTING = """\
Read from the bundled profiles (`profile`, `profile_same_style`), as the app shows them. The token
that starts a document is not counted, the one that ends it is."""

_MISMATCH = """\
Hazard against {retain}: `{forget_set}` with {forget_documents:,} documents, `{retain_set}` with
{retain_documents:,}. Cells whose fF/fR has a lower 95 % bound of {strong:g} or more: {count} of
{all_cells} ({interval}); in a random split of the union: {null_cells} of {all_cells}. Cells that
neither set uses: {unused_cells}. The token-matched ratio re-draws the retain tokens to the forget
set's token ids; ids that both sets have cover {coverage} of the forget tokens."""

_STYLE = """\
The {gap_cells} cells with the largest gaps fF − fR against the default retain set keep
{kept:.0f} % of their summed gap against text of the same style; the rest goes away when both
sides are written alike."""

_TRAINED_ON = {
    "target": "everything but the book's held-out passages",
    "retrain_no_hazard": "the same without hazard facts and passages that name one",
    "retrain_no_book": "the same without the book",
}

_SOURCES = """\
In the project's environment, from the repository's root. The first command reads WordNet 3.0 and
The Devil's Dictionary as Debian packages them (`wordnet-base` and `dict-devil`; from elsewhere with
`--wordnet` and `--book`); its output is committed, so one may begin with the second. A profile goes
to a new folder only, hence `rm`. The last command scores the questions, the test questions among
them; with `--keep-scores` it keeps the stored scores and makes only routing and card again. The
finished runs (`run`, `run_uniform`) are `trace-moe unlearn` of the `config.yaml` in each, kept
without their checkpoints. `audit` is `trace-moe audit` of the `audit.yaml` in it, in a folder with
`run` and a copy of its model under the name `unlearned`."""

_PACK, _MODULE = "trace_engine/demo/pack", "python -m trace_engine.demo.recipe"
_PROFILE = "trace-moe profile --model demo:target --forget demo:forget"
_COMMANDS = (
    f"{_MODULE}.extract",
    f"{_MODULE}.build_sets",
    *(f"{_MODULE}.train --variant {name} --work artefacts/{name}" for name in PACK_MODELS),
    f"rm -r {_PACK}/profile {_PACK}/profile_same_style",
    f"{_PROFILE} --retain demo:retain --out {_PACK}/profile",
    f"{_PROFILE} --retain demo:retain_facts --out {_PACK}/profile_same_style",
    f"trace-moe ablate --profile {_PACK}/profile --out {_PACK}/scan/result.json",
    f"{_MODULE}.card",
)
_AGAIN = "\n".join([f"{_SOURCES}\n\n```sh", *_COMMANDS, "```"])


def _filled(part: str) -> str:
    """A paragraph wrapped at 100 columns; headings and tables as they are."""
    if part.startswith(("#", "|")):
        return part
    head, *tables = part.split("\n\n")
    return "\n\n".join(
        [textwrap.fill(" ".join(head.split()), 100, break_on_hyphens=False), *tables]
    )


def _table(heads: str, left: str, rows: list[str]) -> str:
    """A Markdown table; the first `len(left)` columns are aligned left, the rest right."""
    names = heads.split("|")
    rule = "|".join("---" if n < len(left) else "---:" for n in range(len(names)))
    return "\n".join([f"| {' | '.join(names)} |", f"|{rule}|", *rows])


def _score_table(models: dict[str, Any], split: str) -> str:
    sizes = models["target"][split]
    heads = ["model", *(f"{group} (n = {sizes[group]['n']})" for group in QUESTION_CATEGORIES)]
    rows = []
    for name, model in models.items():
        cells = [
            f"{percent(e['value'])} ({100 * e['low']:.1f} to {100 * e['high']:.1f})"
            for e in (model[split][group] for group in QUESTION_CATEGORIES)
        ]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
    return _table("|".join(heads), "l", rows)


def _mismatch_text(mismatch: dict[str, Any], retain: str) -> str:
    head = _MISMATCH.format(
        retain=retain,
        strong=STRONG,
        count=len(mismatch["cells"]),
        coverage=percent(mismatch["token_coverage"]),
        **mismatch,
    )
    rows = [
        f"| {c['layer']} | {c['expert']} | {c['forget']:.3f} | {c['retain']:.3f} |"
        f" {c['ratio']:.2f} ({c['ratio_low']:.2f} to {c['ratio_high']:.2f}) |"
        f" {c['matched_ratio']:.2f} |"
        for c in mismatch["cells"]
    ]
    table = _table("layer|expert|fF|fR|fF/fR|token-matched", "", rows)
    return f"{head}\n\n{table}" if rows else head


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m trace_engine.demo.recipe.card`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--keep-scores",
        action="store_true",
        help="keep the stored question scores; make routing and card again",
    )
    options = parser.parse_args(arguments)
    path = pack_dir() / "scores.json"
    stored = options.keep_scores and json.loads(path.read_text(encoding="utf-8"))
    scores = complete(stored["models"] if stored else measure())
    path.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    (pack_dir() / "MODEL_CARD.md").write_text(card(scores), encoding="utf-8")
    print((pack_dir() / "MODEL_CARD.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
