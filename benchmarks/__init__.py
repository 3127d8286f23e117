"""What the service costs, side by side with MLflow as `mlflow server` starts it: `nox -s bench`."""
