"""The emulated Google Cloud, through the real gcloud."""
