"""Does training on retained text alone show what a wrecked model still holds?

`python -m bench.wrecked --target MODEL --reference MODEL --work DIR` wrecks the target, audits what
is left of it with the parts `questions` and `recovery`, and writes what was found to
`DIR/wrecked.json`. The reference should be a model that is not the target's own retrained one.
What is finished in DIR is kept, so that a stopped trial goes on.
"""

import argparse
import json
from pathlib import Path
from typing import Any, Final

from bench.blind_audit import audit_settings
from bench.blind_models import wreck
from trace_engine.audit.run import run_audit
from trace_engine.audit.settings import AuditConfig

WHAT: Final = (
    "GradDiff at 3e-3 and alpha 4 for 100 updates of 16 documents (seed: of the unlearning), then "
    "audited: plainly, and after 200 updates of 32 retained documents."
)


def settings(model: str, target: str, reference: str, **changed: Any) -> AuditConfig:
    """The blind test's questions, and the recovery of every audit."""
    asked: dict[str, Any] = {
        "name": "Wrecked",
        "parts": ["questions", "recovery"],
        "threads": 1,
    }
    return audit_settings(model, target, reference, "demo:questions/test", **(asked | changed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", required=True)
    parser.add_argument("--reference", default="demo:retrain_no_hazard")
    parser.add_argument("--seed", type=int, default=0, help="of the unlearning that wrecks")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = options.work / "model"
    if not model.exists():
        wreck(options.target, model, seed=options.seed)
    audited = run_audit(
        settings(str(model), options.target, options.reference),
        options.work / "audit",
        base=options.work / "home",
    )
    found = {
        "what": WHAT,
        "seed": options.seed,
        "models": {role: model["source"] for role, model in audited.report["models"].items()},
        "finding": audited.finding.to_dict(),
        **{name: audited.report["parts"][name]["summary"] for name in ("questions", "recovery")},
    }
    (options.work / "wrecked.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(audited.finding.sentence)


if __name__ == "__main__":
    main()
