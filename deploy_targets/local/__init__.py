"""This machine as a target: real Ray Serve behind a real Envoy, and the stack around them.

`envoy` renders the split (pure), `adapter` is the `Target`, `home` knows files and secrets, `stack` starts and stops
the parts, `demo` walks through the main job.
"""
