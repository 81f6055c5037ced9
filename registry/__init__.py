"""Name a model version, promote it, remember who did: the layer below pipelines and deploy_targets.

`release` and `promotion` hold the types and the decisions and do no I/O; `mlflow_registry`, `tracking` and
`artifact_store` are the only doors to MLflow and S3. Read `release` first.
"""
