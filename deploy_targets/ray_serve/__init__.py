"""Ray Serve: one application for each version in flight.

`serve_config` renders it (pure) and `app` is what runs in the replica; the model itself is `deploy_targets.engine`.
"""
