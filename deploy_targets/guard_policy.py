"""What the guard does with requests and answers, as a user declares it: the endpoint file's `guard`.

The guard reads it as JSON from the file that SHIPWAY_GUARD_POLICY_FILE names, once, when it starts: a change is a restart
of the process on this machine and a rollout of the Deployment in a cluster, so that no request meets half of a policy.
A field is here only once it acts, and without any nothing is changed and nothing refused.
"""

from deploy_targets.declared import Declared
from deploy_targets.filter_policy import InputPolicy, OutputPolicy


class GuardPolicy(Declared):
    """How requests and answers are treated on their way."""

    input: InputPolicy | None = None
    """Which requests go on."""
    output: OutputPolicy | None = None
    """Which answers go out."""

    def document(self) -> str:
        """The file that the guard reads, as JSON in one line."""
        return self.model_dump_json(exclude_defaults=True)
