"""Cloud Run behind its API: what runs containers, and what leads requests to them."""
