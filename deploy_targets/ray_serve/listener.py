"""Where a replica listens: Ray's own choice is corrected here, for each engine that runs in one."""

import importlib
from typing import Any


def listen_on_the_nodes_address_only() -> None:
    """Keeps this replica's own gRPC server off the other networks of the machine; called by a replica's constructor.

    Ray 2.60 opens it on every address, without its token, and unpickles what it is sent: whoever reaches the port runs
    code here. There is no setting for it, so the one call that opens it is given the node's own address.
    """
    replica: Any = importlib.import_module("ray.serve._private.replica")
    open_port: Any = importlib.import_module("ray._common.tls_utils").add_port_to_grpc_server
    own: str = importlib.import_module("ray.util").get_node_ip_address()

    def open_own_port(server: Any, everywhere: str) -> int:
        port = everywhere.rpartition(":")[2]
        return open_port(server, f"[{own}]:{port}" if ":" in own else f"{own}:{port}")

    replica.add_port_to_grpc_server = open_own_port
