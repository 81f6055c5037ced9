"""`mlflow run . --backend shipway-ray`: an entry point as a Ray Job on a cluster that is there already.

`request` is what is asked for, `package` the project's files, `ray_jobs` the cluster's jobs, `submitted` one job and its
MLflow run from here on, `plugin` the door by which MLflow comes in. The job itself is `mlflow run` once more, on the cluster.
"""
