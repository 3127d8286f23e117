"""As much of a browser as signing in takes: cookies, redirects, the provider's page."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.abuse import wire
from tests.abuse.forge import COOKIE
from tests.abuse.place import Place


class Browser:
    """Somebody's cookies for the service."""

    def __init__(self, place: Place, address: tuple[str, int]) -> None:
        """Have no cookie yet.

        Args:
            place: where the provider is.
            address: the service's container.
        """
        self._place, self._address = place, address
        self.cookies: dict[str, str] = {}

    def get(self, target: str) -> wire.Answer:
        """Ask the service, and keep the cookies that it sets."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = [("Cookie", cookies)] if cookies else []
        (answer,) = wire.send(self._address, wire.request(target=target, headers=headers))
        for name, value in answer.cookies.items():
            self.cookies[name] = value
            if not value:
                del self.cookies[name]
        return answer

    def begin(self, target: str = "/") -> str:
        """Ask for a page without a session; return the provider's address that it leads to."""
        answer = self.get(target)
        assert answer.status == 302, answer
        return answer.header("location")

    def consent(self, location: str, user: str) -> str:
        """Sign in on the provider's page; return the address that it leads back to, as path and query."""
        answer = self._place.consent(location, user)
        assert answer.status_code == 302, answer.text
        back = urlsplit(answer.headers["Location"])
        return f"{back.path}?{back.query}"

    def sign_in(self, user: str) -> str:
        """Go the whole way; return the session's cookie."""
        answer = self.get(self.consent(self.begin(), user))
        assert answer.status == 302, answer
        return self.cookies[COOKIE]
