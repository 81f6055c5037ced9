"""`shipway demo` with another model in the place of SmolLM2: `python -m tests.pages.small_demo CHECKPOINT`.

Its stack's ports are not the usual ones, which another stack on this machine may want in the same moment; every later
`shipway up` takes those that the first one took.
"""

import sys

from deploy_targets.cli import main
from deploy_targets.local import demo, stack

_APART = 2_300

if __name__ == "__main__":
    for name in ("_USUAL_PORTS", "_ENDPOINT_PORTS"):
        usual: dict[str, int] = getattr(stack, name)
        setattr(stack, name, {part: port + _APART for part, port in usual.items()})
    demo._SOURCE = sys.argv.pop()
    sys.argv[:] = ["shipway", "demo"]
    main()
