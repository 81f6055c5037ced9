"""Name a model version, promote it, remember who did: the layer below pipelines and deploy_targets.

`release`, `promotion` and `gate` hold the types and the decisions and do no I/O. `mlflow_registry` and `tracking` are the
doors to MLflow, `artifact_store` and `record_store` those to S3; `mlflow_app` is an ear in MLflow's own server. Read
`release` first.
"""
