"""The deployed service under attack."""
