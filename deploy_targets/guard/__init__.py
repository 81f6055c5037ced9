"""The guard: one process in front of the split that lets requests in, passes them on and says what became of them.

`compose` puts it together, `app` has the routes, `chat` takes one request from its first step to its last: read that first.
`upstream` speaks to the split, `protocol` says in which words, `outcome` (pure) what counts as an error of a version. `steps`
are what a policy puts on the way, `asides` what it has done beside it. It shares no code with the control plane.
"""
