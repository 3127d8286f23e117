"""Each protection taken out of a project, to see the tests that it is claimed by fail."""
