"""The checks of the template; `nox` runs them."""
