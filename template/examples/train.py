"""Train an elastic net on scikit-learn's diabetes data and log all of it: a first run to change.

MLFLOW_TRACKING_URI and MLFLOW_TRACKING_TOKEN say where to and as whom.
"""

from __future__ import annotations

import mlflow
import sklearn
from sklearn.datasets import load_diabetes
from sklearn.linear_model import ElasticNet
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split

EXPERIMENT, MODEL = "diabetes", "diabetes-elastic-net"


def train(alpha: float, l1_ratio: float) -> str:
    """Train with these parameters, log parameters, metrics and the model, and return the run's id."""
    features, target = load_diabetes(return_X_y=True, as_frame=True)
    train_x, test_x, train_y, test_y = train_test_split(features, target, random_state=40)
    with mlflow.start_run() as run:
        model = ElasticNet(alpha=alpha, l1_ratio=l1_ratio, random_state=42).fit(train_x, train_y)
        predicted = model.predict(test_x)
        mlflow.log_params({"alpha": alpha, "l1_ratio": l1_ratio})
        mlflow.log_metrics(
            {
                "rmse": root_mean_squared_error(test_y, predicted),
                "mae": mean_absolute_error(test_y, predicted),
                "r2": r2_score(test_y, predicted),
            }
        )
        mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name=MODEL,
            input_example=test_x.head(3),
            pip_requirements=[f"scikit-learn=={sklearn.__version__}"],
        )
        return run.info.run_id


def main() -> None:
    """Train three models, then read the best one back from the server and predict with it."""
    mlflow.set_experiment(EXPERIMENT)
    for alpha in (0.01, 0.1, 1.0):
        train(alpha, l1_ratio=0.5)
    best = mlflow.search_runs(order_by=["metrics.rmse ASC"], max_results=1).iloc[0]
    client = mlflow.MlflowClient()
    version = client.search_model_versions(f"run_id = '{best.run_id}'")[0]
    client.set_registered_model_alias(MODEL, "champion", version.version)
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}@champion")
    features, _ = load_diabetes(return_X_y=True, as_frame=True)
    print(f"best run {best.run_id}: rmse {best['metrics.rmse']:.2f} with alpha {best['params.alpha']}")
    predicted = model.predict(features.head(2)).round(1)
    print(f"read back {MODEL}@champion, version {version.version}: predicts {predicted}")


if __name__ == "__main__":
    main()
