"""Where the CRD files come from: `make crds` fetches them, each at the version that is rendered for.

They are other projects' (Apache-2.0), and this one holds no copy. What is listed here is all that the stand-in serves beside
Kubernetes' own kinds, and all that a real API server is given.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx2

from tests.kubernetes_api.resources import FETCHED

_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """CRDs of one project at one tag."""

    folder: str
    repository: str
    tag: str
    path: str
    """Of a file, with its `{name}`."""
    names: tuple[str, ...]

    def files(self) -> dict[str, str]:
        """URL by the file's place in our folder."""
        root = f"https://raw.githubusercontent.com/{self.repository}/{self.tag}"
        return {
            f"{self.folder}/{name}.yaml": f"{root}/{self.path.format(name=name)}"
            for name in self.names
        }


SOURCES = (
    Source(
        folder="kserve",
        repository="kserve/kserve",
        tag="v0.20.0",
        path="config/crd/full/{name}.yaml",
        names=(
            "serving.kserve.io_clusterservingruntimes",
            "serving.kserve.io_inferenceservices",
            "serving.kserve.io_servingruntimes",
        ),
    ),
    Source(
        folder="kuberay",
        repository="ray-project/kuberay",
        tag="v1.7.0",
        path="ray-operator/config/crd/bases/{name}.yaml",
        names=(
            "ray.io_rayclusters",
            "ray.io_raycronjobs",
            "ray.io_rayjobs",
            "ray.io_rayservices",
        ),
    ),
    Source(
        folder="gateway-api",
        repository="kubernetes-sigs/gateway-api",
        tag="v1.6.1",
        path="config/crd/standard/{name}.yaml",
        names=("gateway.networking.k8s.io_gateways", "gateway.networking.k8s.io_httproutes"),
    ),
    Source(
        folder="prometheus-operator",
        repository="prometheus-operator/prometheus-operator",
        tag="v0.93.0",
        path="example/prometheus-operator-crd/monitoring.coreos.com_{name}.yaml",
        names=("podmonitors", "prometheusrules", "servicemonitors"),
    ),
)
FILES = {place: url for source in SOURCES for place, url in source.files().items()}


def fetch(folder: Path, get: Callable[[str], str]) -> None:
    """Write every file below `folder`; nothing is written unless all of them came."""
    texts = {place: get(url) for place, url in FILES.items()}
    for place, text in texts.items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def main() -> None:
    """Fetch them into the checkout, where the tests look for them."""
    with httpx2.Client(timeout=_TIMEOUT_S, follow_redirects=True) as http:

        def get(url: str) -> str:
            try:
                text = http.get(url).raise_for_status().text
            except httpx2.HTTPError as error:
                sys.exit(
                    f"{url} could not be fetched ({error}). Nothing was written. Fetch the files of "
                    f"tests/kubernetes_api/crds.py where there is a network, and name their folder in SHIPWAY_CRD_DIR."
                )
            if "kind: CustomResourceDefinition" not in text:
                sys.exit(f"{url} is no CustomResourceDefinition. Nothing was written.")
            return text

        fetch(FETCHED, get)
    sys.stdout.write(f"{len(FILES)} CRDs are in {FETCHED.name}/.\n")


if __name__ == "__main__":
    main()
