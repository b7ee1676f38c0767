"""`trace-moe audit` and `trace-moe verify`: a report that another person can check.

Exit codes of `audit`: 0 the report is written, 1 it is written and a part of it failed, 2 refused,
130 stopped (the same command goes on). Of `verify`: 0 all agrees, 1 something differs, 2 refused,
3 nothing differs, but not everything could be checked.
"""

import argparse
import sys

from trace_engine.audit.settings import read_audit
from trace_engine.cli.output import ProgressLine, clear_progress, emit_json, note, plain


def audit(options: argparse.Namespace) -> int:
    from trace_engine.audit.run import run_audit

    config = read_audit(options.config)
    found = run_audit(config, options.out, report=ProgressLine(), tell=note)
    clear_progress()
    from trace_engine.audit.manifest import NAME
    from trace_engine.disk import sha256_file

    digest = sha256_file(found.folder / NAME)
    if options.json:
        emit_json({"finding": found.finding.to_dict(), "failed": list(found.failed),
                   "manifest_sha256": digest})  # fmt: skip
    else:
        print(f"{found.finding.title}. {found.finding.sentence}")
        print(f"Confidence: {found.finding.confidence}. {found.finding.why_confidence}")
        for sentence in found.finding.not_tested:
            print(f"Not tested: {sentence}")
        print(f"SHA-256 of manifest.json, to be kept elsewhere: {digest}")
    note(f"In {options.out}: report.html, report.json, tables, answers, manifest.json.")
    return 1 if found.failed else 0


def verify(options: argparse.Namespace) -> int:
    from trace_engine.audit.verify import verify_audit

    found = verify_audit(
        options.folder,
        config=None if options.config is None else read_audit(options.config),
        sample=options.sample,
        seed=options.seed,
        recompute=options.recompute,
        thorough=options.thorough,
        report=ProgressLine(),
    )
    clear_progress()
    if options.json:
        emit_json(found.to_dict())
        return found.exit_code
    for check in found.checks:
        print(f"{check.state:<11}  {plain(check.what)}")
        for detail in check.details:
            print(f"             {plain(detail)}")
    for what in found.not_again:
        print(f"not again    {plain(what)}")
    print(f"SHA-256 of manifest.json: {found.manifest_sha256}")
    print(f"The sample was drawn with --seed {found.seed}.", file=sys.stderr)
    return found.exit_code
