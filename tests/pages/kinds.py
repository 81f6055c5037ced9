"""Of each block of shell commands on each page: how it is run, or why it is not.

A block is named by its first line. `ALONE` needs nothing but the project; `ON_A_STACK` is run on a stack of a tiny model,
page after page in the order of this table, as a reader would go on. What differs from what the page says is in `CHANGED`,
`GIVEN`, `WRITTEN` and `SMALLER`, and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Run(Enum):
    """A block that is run."""

    ALONE = "alone"
    ON_A_STACK = "on a stack"


@dataclass(frozen=True, slots=True)
class NotHere:
    """A block that cannot be run here."""

    reason: str


ALONE, ON_A_STACK = Run.ALONE, Run.ON_A_STACK
_CLUSTER = NotHere(
    "asks a cluster by kubectl; tests/install has the stand-in take the same objects"
)
_GPU = NotHere("needs a GPU")
_RUNS_ON = NotHere("runs until it is told to end, and the stack of these tests has its controller")
_MLFLOW_APP = NotHere("a server of one's own; tests/registry/test_mlflow_app.py starts it")

KINDS: Mapping[str, Mapping[str, Run | NotHere]] = {
    "docs/tutorial.md": {
        "make demo": ON_A_STACK,
        "source .venv/bin/activate": ON_A_STACK,
        "shipway history chat": ON_A_STACK,
        "shipway replay chat-v3": ON_A_STACK,
        'eval "$(shipway env)"': ON_A_STACK,
        'shipway rollback chat --reason "it talks nonsense"': ON_A_STACK,
        "shipway promote chat 2": ON_A_STACK,
        "make down": ON_A_STACK,
    },
    "README.md": {
        "make demo": NotHere("`make demo` is the tutorial's; `make test` would run this test"),
        "source .venv/bin/activate": ON_A_STACK,
        "mlflow run . -e retrain --env-manager local -P name=smollm2 -P data=chats.jsonl -P set_challenger=true": ON_A_STACK,
        "shipway watch chat": ON_A_STACK,
        "shipway simulate --scenario examples/scenario.yaml": ALONE,
    },
    "docs/howto-own-model.md": {
        "source .venv/bin/activate": ON_A_STACK,
        "mlflow run . -e release --env-manager local -P source=/path/to/checkpoint -P name=mymodel -P recipe=recipes/int8.yaml": ON_A_STACK,
        "shipway endpoints validate": ON_A_STACK,
        "shipway promote mine 1": ON_A_STACK,
    },
    "docs/howto-own-metrics.md": {
        "python -m pipelines.datasets --out data": ON_A_STACK,
        "mlflow run . -e release --env-manager local -P source=/path/to/checkpoint -P name=mymodel -P data=data -P margins=examples/margins.yaml": ON_A_STACK,
        "mlflow run . -e evaluate --env-manager local -P base=models:/mymodel/1 -P model=models:/mymodel/2 -P data=data": ON_A_STACK,
        "shipway simulate --scenario examples/scenario.yaml --runs 500": ALONE,
        "shipway judge --policy examples/policy.yaml --observations examples/observations.jsonl": ALONE,
    },
    "docs/howto-3am-rollback.md": {
        'shipway rollback ENDPOINT --reason "what you saw"': ON_A_STACK,
        "shipway status": ON_A_STACK,
        'shipway hold ENDPOINT --reason "waiting for the morning"': ON_A_STACK,
        "shipway history ENDPOINT": ON_A_STACK,
    },
    "docs/ways-in.md": {
        "shipway watch chat": ON_A_STACK,
        "shipway promote chat 7": ON_A_STACK,
        "shipway webhook install": ON_A_STACK,
        "mlflow server --app-name shipway": _MLFLOW_APP,
        "mlflow deployments create -t shipway --name chat -m models:/smollm2/7": ON_A_STACK,
        "export SHIPWAY_NOTIFY_URL=https://hooks.example.com/services/…": _RUNS_ON,
    },
    "docs/lineage.md": {"shipway verify smollm2 2": ON_A_STACK},
    "docs/retraining.md": {
        "mlflow run . -e retrain --env-manager local -P name=smollm2 -P data=chats.jsonl": ON_A_STACK
    },
    "docs/signing.md": {
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out signing.key": ALONE,
        "shipway verify smollm2 7": ON_A_STACK,
    },
    "docs/quality.md": {
        'curl https://llm.example.com/v1/feedback -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\': ON_A_STACK
    },
    "docs/ab-testing.md": {
        "shipway experiment start chat --name shorter --versions 7,8 --share 50 --goal latency --until 2026-12-20": ON_A_STACK
    },
    "docs/reference.md": {
        "shipway status --json": ON_A_STACK,
        "shipway promote chat 7 --dry-run": ON_A_STACK,
        "shipway verify smollm2 7": ON_A_STACK,
        'shipway rollback chat --to 6 --reason "it talks nonsense"': ON_A_STACK,
        'shipway hold chat --reason "the fair is on"': ON_A_STACK,
        "shipway resume chat": ON_A_STACK,
        "shipway watch chat": ON_A_STACK,
        "shipway render --all --version 1 --source s3://models/llm": ALONE,
        "shipway diff chat --version 7 --source s3://models/7": NotHere(
            "asks a cluster; tests/local/test_diff.py does"
        ),
        "SHIPWAY_POLL_S=5 shipway controller -f endpoints.yaml": _RUNS_ON,
        "shipway gc --keep-last 3 --delete": ON_A_STACK,
        "shipway endpoints validate -f endpoints.yaml": ALONE,
        "shipway endpoints guards -f endpoints.yaml > guards.yaml": ALONE,
        "shipway endpoints schema > endpoints.schema.json": ALONE,
        "shipway up -f endpoints.yaml": ON_A_STACK,
        "shipway down": NotHere("would end the stack for the blocks below; the tutorial's last"),
        'eval "$(shipway env)"': ON_A_STACK,
        "shipway load chat --clients 8 --requests 500": ON_A_STACK,
        "shipway doctor": ON_A_STACK,
        "shipway demo": NotHere("the tutorial's `make demo`"),
        "shipway keys create chat anna --requests-per-minute 60": ON_A_STACK,
        "shipway keys list chat": ON_A_STACK,
        "shipway keys revoke chat anna": ON_A_STACK,
        "shipway judge --policy policy.yaml --observations obs.jsonl --json": ALONE,
        "shipway simulate --scenario scenario.yaml --runs 2000 --seed 1 --json": ALONE,
        "shipway plan-canary --scenario scenario.yaml --max-exposed 500": ALONE,
        "shipway webhook install": ON_A_STACK,
        "shipway webhook list": ON_A_STACK,
        "shipway webhook remove": ON_A_STACK,
        "shipway history chat --json": ON_A_STACK,
        "shipway explain chat-v7": ON_A_STACK,
        "shipway replay chat-v7": ON_A_STACK,
        "shipway costs chat --json": ON_A_STACK,
        "shipway experiment start chat --name shorter --versions 7,8 --share 50 --goal latency --until 2026-12-20": NotHere(
            "wants sticky users; docs/ab-testing.md has the same three"
        ),
        "shipway experiment status chat --json": ON_A_STACK,
        'shipway experiment stop chat --reason "the fair is on"': NotHere("likewise"),
        "shipway schedule render -f schedules.yaml > cronjobs.yaml": ALONE,
        "shipway schedule run -f schedules.yaml": NotHere(
            "runs until it is told to end; tests/pipelines/schedule does"
        ),
        "shipway schedule list -f schedules.yaml": ON_A_STACK,
    },
    "docs/guarantee.md": {
        "cat > scenario.yaml <<'YAML'": ALONE,
        "shipway plan-canary --scenario scenario.yaml --max-exposed 2000": ALONE,
        "cat > policy.yaml <<'YAML'": ALONE,
    },
    "docs/guide-mapping.md": {
        "shipway render -f examples/guide/endpoints.yaml --all --version 1 --source s3://models/llm": ALONE
    },
    "docs/howto-gpu.md": {
        "make test-gpu": _GPU,
        "shipway render chat --version 7 --source s3://shipway/models/DIGEST": ALONE,
    },
    "docs/install-kubernetes.md": {
        "R=registry.example.com T=0.1.0": NotHere("builds and pushes images; there is no Docker"),
        "shipway endpoints validate -f endpoints.yaml": ALONE,
        "kubectl apply -f ../controller/namespace.yaml": _CLUSTER,
        "kubectl -n shipway create secret generic shipway-controller \\": _CLUSTER,
        "key=\"sk-$(head -c 32 /dev/urandom | base64 | tr -d '=+/\\n')\"": ALONE,
        "kubectl -n shipway create secret generic chat-guard-keys --from-file=keys.json": _CLUSTER,
        "kubectl -n shipway create secret generic shipway-guard-redis --from-literal=url=redis://:PASSWORD@redis.redis:6379/0": _CLUSTER,
        "kubectl -n shipway create secret generic shipway-signing-keys --from-file=signing.pem": _CLUSTER,
        "kubectl kustomize . | less": _CLUSTER,
        "kubectl -n shipway rollout status deployment shipway-controller": _CLUSTER,
        "export SHIPWAY_CONTROL_PLANE=kubernetes SHIPWAY_KUBE_CONTEXT=... MLFLOW_TRACKING_URI=...": _CLUSTER,
        "kubectl -n shipway port-forward service/chat-guard 8080:80 &": _CLUSTER,
        "kubectl delete -k .": _CLUSTER,
        "kubectl -n llm delete httproutes,rayservices,inferenceservices,networkpolicies -l app.kubernetes.io/managed-by=shipway": _CLUSTER,
    },
    "docs/ray-backend.md": {
        "export MLFLOW_TRACKING_URI=http://mlflow:5000  RAY_ADDRESS=http://ray-head:8265  RAY_AUTH_TOKEN=…": NotHere(
            "asks a Ray cluster; tests/pipelines/backend starts one and does"
        )
    },
    "docs/shadow.md": {
        "kubectl -n shipway create secret generic chat-guard-judge --from-literal=key=...": _CLUSTER
    },
    "docs/triggers.md": {"export SHIPWAY_WEBHOOK_SECRET=…": _MLFLOW_APP},
    "SECURITY.md": {
        "pip install pip-audit": NotHere("asks a data base of vulnerabilities on the internet")
    },
}

FOLDERS: Mapping[str, str] = {
    "docs/install-kubernetes.md": "deploy_targets/install/example",
}
"""Where the reader of a page is, if not in the project."""

GIVEN: Mapping[str, str] = {
    "policy.yaml": "examples/policy.yaml",
    "obs.jsonl": "examples/observations.jsonl",
    "scenario.yaml": "examples/scenario.yaml",
    "schedules.yaml": "examples/schedules.yaml",
}
"""Files that the reader has, by what they are copied from."""

WRITTEN: Mapping[str, str] = {
    "chats.jsonl": "".join(
        f'{{"messages": [{{"role": "user", "content": "What is {n} and {n}?"}}, '
        f'{{"role": "assistant", "content": "{n} and {n} is {2 * n}."}}]}}\n'
        for n in range(40)
    ),
    "request.json": '{"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}',
}
"""Files of the reader's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A text in the blocks of a page that is another one here."""

    page: str
    old: str
    new: str
    """`{checkpoint}` is a tiny model, another one for each page; `{guard}` the address of chat's guard."""
    reason: str


_FOLLOWS = "follows until Ctrl-C"
_NUMBERS = "an example's version number; the stack has versions 1 to 3 of the demo, 4 of README"
_ASKED = """\
answer=$(curl -s -o /dev/null -D - {guard}/v1/chat/completions \
  -H "Authorization: Bearer $SHIPWAY_API_KEY" -H 'Content-Type: application/json' \
  -d '{"model": "chat", "max_tokens": 2, "messages": [{"role": "user", "content": "hello"}]}' \
  | tr -d '\\r' | sed -n 's/^x-request-id: //p')
"""
CHANGED: tuple[Change, ...] = (
    Change(
        page="docs/tutorial.md",
        old="make demo",
        new="{python} -m tests.pages.small_demo {checkpoint}",
        reason="the same demo, of a tiny model in the place of SmolLM2; `make setup` has been",
    ),
    *(
        Change(page=page, old=f"shipway watch {name}", new=f"shipway watch {name} --looks 2", reason=_FOLLOWS)
        for page, name in (
            ("docs/tutorial.md", "chat"),
            ("README.md", "chat"),
            ("docs/howto-own-model.md", "mine"),
            ("docs/ways-in.md", "chat"),
            ("docs/reference.md", "chat"),
        )
    ),
    *(
        Change(page=page, old="/path/to/checkpoint", new="{checkpoint}", reason="the reader's own model")
        for page in ("README.md", "docs/howto-own-model.md", "docs/howto-own-metrics.md")
    ),
    Change(page="README.md", old="http://127.0.0.1:8080", new="{guard}", reason="the usual port may be taken"),
    Change(page="docs/howto-3am-rollback.md", old="ENDPOINT-v7", new="chat-v2", reason=_NUMBERS),
    Change(page="docs/howto-3am-rollback.md", old="ENDPOINT", new="chat", reason="the reader's own"),
    Change(page="docs/ways-in.md", old="promote chat 7", new="promote chat 4", reason=_NUMBERS),
    Change(page="docs/ways-in.md", old="models:/smollm2/7", new="models:/smollm2/4", reason=_NUMBERS),
    Change(page="docs/signing.md", old="smollm2 7", new="smollm2 2", reason=_NUMBERS),
    Change(page="docs/quality.md", old="curl https://llm.example.com", new=_ASKED + "curl {guard}", reason="the reader's own, and an answer to speak of"),
    Change(page="docs/quality.md", old="3f1c…", new="'\"$answer\"'", reason="that answer's id"),
    Change(page="docs/quality.md", old="$KEY", new="$SHIPWAY_API_KEY", reason="the reader's own"),
    Change(page="docs/ab-testing.md", old="7,8", new="1,4", reason=_NUMBERS),
    Change(page="docs/ab-testing.md", old="--goal latency", new="--goal errors", reason="the demo's endpoint is judged by errors alone"),
    Change(page="docs/ab-testing.md", old="2026-12-20", new="{tomorrow}", reason="it must not be over"),
    Change(page="docs/reference.md", old="promote chat 7", new="promote chat 1", reason=_NUMBERS),
    Change(page="docs/reference.md", old="smollm2 7", new="smollm2 2", reason=_NUMBERS),
    Change(page="docs/reference.md", old="--to 6", new="--to 1", reason=_NUMBERS),
    Change(page="docs/reference.md", old="chat-v7", new="chat-v2", reason=_NUMBERS),
)  # fmt: skip

SMALLER: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "endpoints.yaml": {
        "max_context_tokens: 1024": ("max_context_tokens: 256", "all that the tiny model takes"),
        "cpus: 1, memory_gib: 2": ("cpus: 0.1, memory_gib: 0.1", "three versions on two cores"),
        "dwell_s: 10": ("dwell_s: 1", "nobody waits for evidence here"),
        "requests: 150": ("requests: 60", "likewise"),
        "settle_s: 5": ("settle_s: 1", "likewise"),
        "drain_s: 5": ("drain_s: 1", "likewise"),
    },
    "examples/margins.yaml": {
        "repetition_rise: 0.05": ("repetition_rise: 0.5", "random weights repeat by chance"),
    },
}
"""What is another in the project's files, and why."""

SAYS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("docs/tutorial.md", "source .venv/bin/activate"): ("chat: smollm2 v2 serves",),
}
"""What a page says in its text that a block prints."""
