"""`shipway demo` with another model in the place of SmolLM2: `python -m tests.pages.small_demo CHECKPOINT`."""

import sys

from deploy_targets.cli import main
from deploy_targets.local import demo

if __name__ == "__main__":
    demo._SOURCE = sys.argv.pop()
    sys.argv[:] = ["shipway", "demo"]
    main()
