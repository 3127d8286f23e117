"""The deployment on Google Cloud, by gcloud."""
