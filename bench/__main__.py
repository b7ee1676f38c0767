"""`make bench`: every figure that the README quotes, one after the other, each in its own process.

Own processes, so that one measurement's warm caches and threads are not the next one's luck.
"""

import subprocess
import sys

from bench import hardware

MODULES = ("profile", "profile_pack", "step", "unlearn_step", "trainable", "exact_weights")
MODULES += ("causal_scan", "app", "load")


def main() -> int:
    print(f"Hardware: {hardware()}\n", flush=True)
    failed = []
    for name in MODULES:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"\nThese did not finish: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
