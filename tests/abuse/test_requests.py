"""Every case of cases.py: the real service's answer, and that nothing of it reaches what is behind."""

from __future__ import annotations

import pytest

from tests.abuse.cases import CASES, CLEAN, LOGIN, Case
from tests.abuse.conftest import Recorded, Target
from tests.abuse.forge import Forge
from tests.abuse.target import HOST, SIGN_IN
from tests.abuse.wire import Answer, request

# Their target names a host, which no browser does; the answer leads there.
UNLIKE_A_BROWSER = ("CONNECT", f"path http://{HOST}/ping/../api/2.0/mlflow/runs/search")


def assert_refused(case: str, answers: list[Answer]) -> None:
    """Assert that each answer is the proxy's own, and leads nowhere but to the sign-in."""
    for answer in answers:
        assert answer.status not in range(200, 300) or answer.status == LOGIN, case
        assert b"reached" not in answer.body and b"experiment_id" not in answer.body, case
        location = answer.header("location")
        if answer.status == CLEAN:
            plain = location.startswith("/") and not location.startswith(("//", "/\\"))
            assert plain or case in UNLIKE_A_BROWSER, case
        elif answer.status in range(300, 400):
            assert location.startswith(SIGN_IN), (case, location)


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: ascii(case.name)[1:60])
def test_the_service_refuses(case: Case, service: Target, forge: Forge) -> None:
    answers = service.send(case.build(forge))
    assert answers, f"no answer at all: {case.why}"
    assert_refused(case.name, answers)
    assert answers[0].status == case.status, (case.why, answers[0])


def test_nothing_reaches_the_upstream(recorded: Recorded, forge: Forge, bearer: tuple[str, str]) -> None:
    marker = request(target="/api/marker", headers=[bearer])
    before = len(recorded.seen())
    assert [answer.status for answer in recorded.send(marker)] == [200]
    wrong = []
    for case in CASES.values():
        answers = recorded.send(case.build(forge))
        assert_refused(case.name, answers)
        if [answer.status for answer in answers[:1]] != [case.status]:
            wrong.append((case.name, [answer.status for answer in answers]))
    assert not wrong
    assert [answer.status for answer in recorded.send(marker)] == [200]
    lines = [seen["line"] for seen in recorded.seen()[before:]]
    assert lines == ["GET /api/marker HTTP/1.1"] * 2
