"""The controller's world that SHIPWAY_CONTROL_PLANE names, for whoever stands on top: the CLI and MLflow's plugin.

Imports stay inside, so that asking for help loads neither world.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy_targets.control_plane import ControlPlane


def compose(file: Path) -> "ControlPlane":
    """Its clients, for the endpoints that `file` declares.

    Raises:
        BadInput: the file is not valid, or not for this world.
        ComponentNotReady: the local stack is meant, and none was started here.
    """
    from deploy_targets.control_plane import ControlPlaneSettings, Place

    if ControlPlaneSettings().control_plane is Place.LOCAL:
        from deploy_targets.local.compose import Composition

        return Composition.of_running_stack(file)
    from deploy_targets.in_cluster.compose import ClusterComposition

    return ClusterComposition.of_environment(file)
