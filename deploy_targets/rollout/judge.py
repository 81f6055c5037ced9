"""What do the numbers say? One observation and the evidence so far go in, a verdict and the new evidence come out.

The promise: a challenger whose failure rate is not above the champion's is rolled back with probability at most
`false_rollback_rate` over the whole rollout, at every moment one looks, provided that failures in an interval fall on
requests independently of the version. It does not hold for failures that come in bursts.
"""

import math

from deploy_targets.endpoint import JudgePolicy
from deploy_targets.rollout import sequential
from deploy_targets.rollout.state import (
    Counts,
    Decision,
    Evidence,
    NoData,
    Observation,
    Verdict,
)


def add_counts(total: Counts, more: Counts) -> Counts:
    """The sum of both, field by field."""
    return Counts(
        requests=total.requests + more.requests,
        errors=total.errors + more.errors,
        duration_s=total.duration_s + more.duration_s,
    )


def learn(
    observation: Observation | NoData,
    evidence: Evidence,
    policy: JudgePolicy,
    *,
    champion: str | None,
    challenger: str,
) -> Evidence:
    """The evidence after this interval. A gap teaches nothing, and neither does a version that is missing from it."""
    if isinstance(observation, NoData):
        return evidence
    new = observation.increments.get(challenger)
    old = Counts() if champion is None else observation.increments.get(champion)
    if new is None or old is None:
        return evidence
    log_e = evidence.log_e_values or sequential.NO_EVIDENCE
    if champion is None:
        log_e = sequential.update_one_sample(
            log_e, requests=new.requests, bad=new.errors, limit=policy.metrics.errors.limit
        )
    else:
        log_e = sequential.update_two_sample(
            log_e,
            champion_requests=old.requests,
            champion_bad=old.errors,
            challenger_requests=new.requests,
            challenger_bad=new.errors,
        )
    return Evidence(
        intervals=evidence.intervals + 1,
        champion=add_counts(evidence.champion, old),
        challenger=add_counts(evidence.challenger, new),
        log_e_values=log_e,
        peak_log_e=max(evidence.peak_log_e, sequential.mixture_log_e(log_e)),
    )


def judge(
    evidence: Evidence, policy: JudgePolicy, *, champion: str | None, needed: int, exposed_s: float
) -> Verdict:
    """The verdict on all the evidence: harm first, then whether `needed` challenger requests were seen, then time.

    `exposed_s` is the time since the challenger first had traffic.
    """
    bound = 1 / policy.false_rollback_rate
    e_value = math.exp(min(evidence.peak_log_e, 700.0))
    counts = _in_words(evidence, champion)
    if e_value >= bound:
        against = f"more than {policy.metrics.errors.limit:.1%}" if champion is None else "worse"
        return Verdict(
            decision=Decision.ROLL_BACK,
            reason=f"{counts}; the challenger is {against}: e-value {e_value:.4g} ≥ {bound:.4g}",
            e_value=e_value,
        )
    numbers = f"{counts}; e-value {e_value:.3g} < {bound:.4g}"
    seen = evidence.challenger.requests
    if champion is None and needed == 0:
        reason = (
            "a first release, with no champion to compare it with: it answered every smoke prompt"
        )
        return Verdict(decision=Decision.PROMOTE, reason=reason, e_value=e_value)
    if seen >= needed:
        return Verdict(
            decision=Decision.PROMOTE,
            reason=f"{numbers}; {seen} challenger requests without evidence of harm, {needed} were asked for",
            e_value=e_value,
        )
    if exposed_s >= policy.time_limit_s:
        return Verdict(
            decision=Decision.INCONCLUSIVE,
            reason=f"{numbers}; only {seen} of {needed} challenger requests in {exposed_s:.0f} s",
            e_value=e_value,
        )
    return Verdict(
        decision=Decision.HOLD,
        reason=f"{numbers}; {seen} of {needed} challenger requests",
        e_value=e_value,
    )


def _in_words(evidence: Evidence, champion: str | None) -> str:
    new, old = evidence.challenger, evidence.champion
    words = f"challenger {new.errors} errors in {new.requests}"
    return words if champion is None else f"{words}, champion {old.errors} errors in {old.requests}"
