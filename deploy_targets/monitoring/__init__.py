"""What watches the endpoints from outside: recorded series, alerts, a PodMonitor and a dashboard, all rendered. Pure.

Start at `limits` for the thresholds, `rules` for the alerts. The files in `generated/` are for a Prometheus or a Grafana
without Shipway at hand; `make docs` writes them, and a test compares them with the code. Nothing here decides about a
rollout: that is `rollout`'s business, on its own reading of the same counters.
"""
