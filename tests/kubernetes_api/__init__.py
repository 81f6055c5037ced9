"""A stand-in for a Kubernetes API server, for the unmodified `kubernetes` client; the fixture is `cluster`.

`wire` (HTTP) > `server` (state, clock, faults) > `api` (routes) > `writes`, `deletes`, `watches` > `apply`, `schema`, `cel`,
`rbac`, `store`: from `api` on all is pure. `resources` and `core_kinds` are the kinds, `operators` those who write statuses.

What it does not do it answers with 501: Foreground deletion, JSON patches, strategic patches of lists, paging (`limit`),
fields other than name and namespace in field selectors, other versions than the stored one, CEL that nobody wrote here.
Silently absent: admission webhooks (faults can speak for them), immutable fields of core kinds, expiry of tokens, RBAC's
check that nobody grants more than they have, quotas, and controllers: nothing makes pods.
"""
