"""MLflow's webhook to the controller: set up, listed, removed, and why MLflow would not call it.

One webhook, named `shipway`, for each MLflow server. `nudge` is where its calls arrive; `webhook_commands` puts this on the
command line.
"""

from dataclasses import dataclass, field

from deploy_targets.rollout.nudge import HOOK_EVENTS, HOOK_PATH
from registry.errors import RegistryUnavailable, WebhookRefused
from registry.mlflow_registry import MlflowRegistry

HOOK_NAME = "shipway"

_REMEDIES = {
    ("Invalid webhook URL scheme", "non-public IP", "not a public IP"): (
        "By default MLflow calls public https addresses alone. In the environment of MLflow's server, set "
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true for an address within your own network, and "
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES=http,https for one without TLS; then start it anew."
    ),
    ("Cannot resolve",): "MLflow's server does not know that host; name one that it can reach.",
    ("signature does not fit",): (
        "MLflow signs with another secret than the controller's. Run `shipway webhook install` with the controller's "
        "SHIPWAY_WEBHOOK_SECRET."
    ),
    ("no webhook secret is set",): (
        "The controller has no secret. Start it with the SHIPWAY_WEBHOOK_SECRET that the webhook was installed with."
    ),
    (
        "timestamp is too far",
    ): "The clocks of MLflow's server and of the controller differ by minutes; set them.",
    ("Connection", "Timeout", "timed out"): (
        "Nobody answers there, as seen from MLflow's server. Is the controller up, and its port reachable from there?"
    ),
}
_LOST_KEY = (
    "Where MLflow answers with an internal error to this question alone, it cannot decrypt the secrets of its webhooks: "
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY is not the one under which they were written, or not set, when each of its "
    "processes makes its own. Set it on MLflow's server, the same one for good; where it is lost, empty the table "
    "`webhooks` of MLflow's database."
)
_ELSE = "Something else than a controller answers there; look at the address."


@dataclass(frozen=True, slots=True, kw_only=True)
class HookAddress:
    """Where the controller is called, and with which secret."""

    controller_url: str
    secret: str = field(repr=False)

    @property
    def url(self) -> str:
        """What MLflow is to call."""
        return self.controller_url.rstrip("/") + HOOK_PATH


@dataclass(frozen=True, slots=True, kw_only=True)
class HookCheck:
    """Whether hints of MLflow arrive, and what to do where they do not."""

    arrives: bool
    said: str


def ensure_hook(registry: MlflowRegistry, address: HookAddress) -> None:
    """Sets the webhook up, or right.

    Raises:
        WebhookRefused: MLflow would not call that address.
        RegistryUnavailable: it does not answer.
    """
    registry.ensure_webhook(
        name=HOOK_NAME, url=address.url, secret=address.secret, events=HOOK_EVENTS
    )


def install_hook(registry: MlflowRegistry, address: HookAddress) -> HookCheck:
    """As `ensure_hook`, and has MLflow try it. Repeating it changes nothing."""
    try:
        ensure_hook(registry, address)
    except WebhookRefused as error:
        said = f"MLflow refuses to call {address.url} ({error}). {_remedy(str(error))}"
        return HookCheck(arrives=False, said=said)
    return check_hook(registry)


def check_hook(registry: MlflowRegistry) -> HookCheck:
    """Has MLflow call the controller once, if it has a webhook to do so. The call is a hint like any other."""
    try:
        hook = next((one for one in registry.webhooks() if one.name == HOOK_NAME), None)
        if hook is None:
            said = "MLflow has no webhook to the controller, so changes wait for the next poll. `shipway webhook install`"
            return HookCheck(arrives=False, said=said)
        if not hook.is_active:
            said = f"the webhook to {hook.url} is switched off. `shipway webhook install` switches it on"
            return HookCheck(arrives=False, said=said)
        trouble = registry.try_webhook(HOOK_NAME)
    except RegistryUnavailable as error:
        is_internal = "500" in str(error.__cause__)
        return HookCheck(arrives=False, said=f"{error} {_LOST_KEY}" if is_internal else str(error))
    if trouble:
        said = f"MLflow cannot call {hook.url} ({trouble[:300]}). {_remedy(trouble)}"
        return HookCheck(arrives=False, said=said)
    return HookCheck(arrives=True, said=f"MLflow's calls to {hook.url} arrive")


def list_hooks(registry: MlflowRegistry) -> tuple[str, ...]:
    """One line for each webhook of this MLflow, ours or not."""
    return tuple(
        f"{hook.name} {'on ' if hook.is_active else 'off'} {hook.url} {', '.join(hook.events)}"
        for hook in registry.webhooks()
    )


def _remedy(trouble: str) -> str:
    """What to do about what MLflow said of a call that did not go through."""
    found = (said for words, said in _REMEDIES.items() if any(word in trouble for word in words))
    return next(found, _ELSE)
