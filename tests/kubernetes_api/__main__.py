"""The stand-in as a process of its own: `python -m tests.kubernetes_api KUBECONFIG` serves until it is told to end.

The file that it writes is for any client, and for the tests that are meant for a real server.
"""

import json
import signal
import sys
import threading
from pathlib import Path

from tests.kubernetes_api.kubeconfig import kubeconfig_of
from tests.kubernetes_api.resources import crd_folder, read_catalogue
from tests.kubernetes_api.server import ADMIN_TOKEN, standing_in


def main(kubeconfig: Path) -> None:
    """Serve, and say so by writing the file."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with standing_in(read_catalogue(crd_folder())) as server:
        name = "standing-in"
        document = kubeconfig_of({name: server.url}, token=ADMIN_TOKEN, current=name)
        written = kubeconfig.with_suffix(".new")
        written.write_text(json.dumps(document))
        written.replace(kubeconfig)
        ended.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
