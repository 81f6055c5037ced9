"""How tritonserver is started on this machine: from an environment of its own, which `make setup-triton` makes.

The bundled python backend breaks with numpy 2, which GPTQ needs, so the two cannot share one. Every listener is on
loopback, and nothing can be loaded, shared or traced through it from outside. No process is started here.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy_targets.endpoint import Endpoint
from deploy_targets.local.parts import BIN, Part
from registry.errors import ComponentNotReady

STUB = "triton_python_backend_stub"
"""The process that runs a model's Python, a child of tritonserver."""
EXIT_S = 5
"""What requests under way are given when tritonserver is asked to end."""

_PACKAGES = "lib/python3.11/site-packages"
_SHUT = "shared-memory,trace,logging"
"""Its HTTP interfaces that nobody needs here: they answer only to a header that nobody knows."""
_FOREIGN = ("PYTHON", "MLFLOW_", "RAY_")


@dataclass(frozen=True, slots=True)
class TritonEnvironment:
    """The folder that `make setup-triton` makes."""

    path: Path

    @property
    def is_ready(self) -> bool:
        """Whether it is there and whole."""
        return (self.path / ".ready").exists()

    def check(self) -> None:
        """Passes where it is ready.

        Raises:
            ComponentNotReady: it is missing, or an attempt to make it has failed.
        """
        if not self.is_ready:
            message = f"Triton's own environment is not in {self.path}. Run `make setup-triton`."
            raise ComponentNotReady(message)

    def server(
        self,
        endpoint: Endpoint,
        *,
        repository: str,
        folder: Path,
        port: int,
        metrics_port: int,
        environment: Mapping[str, str],
    ) -> Part:
        """One tritonserver that serves the model repository at `repository` (a folder or `s3://…`).

        `environment` is this process's own, with the S3 access; the part's is all that tritonserver may get.
        """
        bundle = self.path / _PACKAGES / "pytriton/tritonserver"
        cache = None if endpoint.triton is None else endpoint.triton.response_cache_bytes
        caching = () if cache is None else (f"--cache-config=local,size={cache}",)
        kept = {name: text for name, text in environment.items() if not name.startswith(_FOREIGN)}
        return Part(
            command=(
                # With whoever watches over it gone, nobody would ever end it.
                "setpriv",
                "--pdeathsig=KILL",
                str(bundle / "bin/tritonserver"),
                f"--model-repository={repository}",
                f"--backend-directory={self.path / 'backends'}",
                f"--cache-directory={bundle / 'caches'}",
                *caching,
                "--http-address=127.0.0.1",
                f"--http-port={port}",
                "--allow-grpc=false",
                "--metrics-address=127.0.0.1",
                f"--metrics-port={metrics_port}",
                "--allow-gpu-metrics=false",
                f"--http-restricted-api={_SHUT}:shut={os.urandom(16).hex()}",
                "--disable-auto-complete-config",
                # A model that does not load is asked for its reason, so the server has to outlive it.
                "--exit-on-error=false",
                f"--exit-timeout-secs={EXIT_S}",
            ),
            folder=folder,
            environment={
                **kept,
                # The stub takes the packages of the first python3 on the path.
                "PATH": f"{self.path / 'bin'}:{environment.get('PATH', os.defpath)}",
                "LD_LIBRARY_PATH": f"{self.path / _PACKAGES / 'nvidia_pytriton.libs'}:{self._libpython}",
                "OMP_NUM_THREADS": str(endpoint.engine.threads),
                "TOKENIZERS_PARALLELISM": "false",
                "HF_HUB_OFFLINE": "1",
            },
        )

    @property
    def _libpython(self) -> Path:
        """Where the interpreter's own library is: its modules look for it, and the stub would not find it."""
        return (self.path / "bin/python3").resolve().parents[1] / "lib"


def triton_environment() -> TritonEnvironment:
    """The one beside this interpreter's environment."""
    return TritonEnvironment(BIN.parent.with_name(".venv-triton"))


def repository_address(source: str, s3_endpoint_url: str | None) -> str:
    """The address of an `s3://bucket/folder` as Triton wants it, with the S3 server in it where it is not AWS' own."""
    if s3_endpoint_url is None:
        return source
    return f"s3://{s3_endpoint_url}/{source.removeprefix('s3://')}"
