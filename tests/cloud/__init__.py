"""The generated project against the emulated Google Cloud, by the real gcloud."""
