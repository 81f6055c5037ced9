"""Which version answers a request: `traffic` (weights by version), `buckets` (sticky users), `http_route` (the split in a cluster).

The split on this machine is `local.envoy`. All of it is pure; who moves traffic, and why, is `rollout`'s business.
"""
