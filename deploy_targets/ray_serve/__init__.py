"""Ray Serve: one application for each version in flight.

`serve_config` renders it (pure), `app` is what runs in the replica, `chat` speaks OpenAI's protocol (pure) and
`generation` drives the model.
"""
