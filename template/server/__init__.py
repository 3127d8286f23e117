"""What runs MLflow in the image: one process a CPU, started by `python -m server` (Python 3.15)."""
