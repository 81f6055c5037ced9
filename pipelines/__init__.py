"""Make a model version: download -> quantize -> evaluate -> version, run by `mlflow run . -e <stage>`.

`download` hands on a plain safetensors checkpoint, `quantize` a smaller one, `evaluate` a scorecard and the gate's
answer, `version` a row in the registry whose bytes lie in S3. `release` runs all four in one process, `retrain` begins with
training; `schedule` runs them by the clock, `backend` on a Ray cluster. Each stage's work lies in a folder named by its
inputs (`workbench`), so that a rerun goes on from the last one that finished. Read `release` first, then `session`.
"""
