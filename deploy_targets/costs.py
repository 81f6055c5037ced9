"""`shipway costs`: what requests cost, by version and by key, as the guards have counted since they were started. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from prometheus_client.parser import text_string_to_metric_families

from deploy_targets import metrics

_MICROS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """One version's requests, or one key's at a version."""

    version: str
    key: str | None
    """None: of all keys, and only requests that were finished."""
    requests: int
    tokens: int
    micros: int

    def to_json(self) -> dict[str, object]:
        """The fields by name."""
        return asdict(self)

    def line(self, currency: str) -> str:
        """For people."""
        mean = self.micros / self.requests if self.requests else 0.0
        money = f"{self.micros / _MICROS:.6f} {currency}, {mean:.1f} micros a request"
        who = "all keys" if self.key is None else f"key {self.key}"
        return f"version {self.version:14} {who:28} {self.requests:8} requests {self.tokens:10} tokens  {money}"


def cost_lines(pages: Iterable[str], *, endpoint: str) -> tuple[CostLine, ...]:
    """Of all guards' metrics pages together: each version, and below it its keys.

    Raises:
        ValueError: a page is not in Prometheus' text format, or has series that are none of a guard's.
    """
    of_key = (metrics.KEY_REQUESTS.name, metrics.KEY_TOKENS.name, metrics.KEY_COST.name)
    of_version = (
        metrics.REQUESTS.name,
        metrics.PROMPT_TOKENS.name,
        metrics.COMPLETION_TOKENS.name,
        metrics.COST.name,
    )
    sums: Counter[tuple[str, str | None, str]] = Counter()
    samples = (
        sample
        for page in pages
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name in (*of_key, *of_version)
    )
    try:
        for sample in samples:
            labels = sample.labels
            if labels[metrics.ENDPOINT] == endpoint:
                place = labels[metrics.VERSION], labels.get(metrics.KEY), sample.name
                sums[place] += int(sample.value)
    except (KeyError, OverflowError) as error:
        message = f"it has a series that is none of a guard's ({error!r})"
        raise ValueError(message) from error
    rows = sorted(
        {(version, key) for version, key, _ in sums}, key=lambda row: (row[0], row[1] or "")
    )
    return tuple(
        CostLine(
            version=version,
            key=key,
            requests=sums[version, key, (of_version if key is None else of_key)[0]],
            tokens=sum(
                sums[version, key, name]
                for name in (of_version[1:3] if key is None else of_key[1:2])
            ),
            micros=sums[version, key, (of_version if key is None else of_key)[-1]],
        )
        for version, key in rows
    )
