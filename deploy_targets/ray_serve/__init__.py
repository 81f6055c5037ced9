"""Ray Serve, on KubeRay and on this machine: one application for each version in flight.

`serve_config` renders it, `manifest` a RayService around it, and `status` reads that (all pure); `adapter` is the target in a
cluster. `app` and `vllm_app` are what runs in the replica; the model itself is `deploy_targets.engine`.
"""
