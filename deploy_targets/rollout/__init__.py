"""Move traffic between revisions: measure (`observe`), judge (`judge`), decide (`plan`), act (`controller`).

The core (`state`, `sequential`, `judge`, `plan`) is pure; `controller.tick` is the only place where it meets the
registry, the target and the clock. Save before act, work from the gap, read everything anew each time.
"""
