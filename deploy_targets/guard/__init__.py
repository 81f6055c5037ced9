"""The guard: one process in front of the split that lets requests in, passes them on and says what became of them.

`app` takes one request through it, `upstream` speaks to the split, `protocol` says in which words, `outcome` (pure) says what counts as an error of a
version, `wire` (pure) reads requests, `access_control` (pure) knows keys. It shares no code with the control plane.
"""
