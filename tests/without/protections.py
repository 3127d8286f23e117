"""What is ours of the protections in docs/security.md: the edit that takes each out, and who must notice.

No edit here takes out what OAuth2-Proxy, Go, MLflow and Requests do by themselves; docs/security.md says
which these are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

Edit = tuple[str, str, str]  # file of a rendered project, what stands there once, what instead


@dataclass(frozen=True)
class Protection:
    """One of them.

    Attributes:
        edits: without it.
        tests: each must fail then, in at least one of its cases; those in `tests/abuse` run on the local
            stack of the edited project, the others in the project itself.
    """

    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


CFG, START, DOCKERFILE = "oauth2-proxy.cfg", "start.sh", "Dockerfile"
PROXY, SETTINGS = "deployment/proxy.py", "deployment/settings.py"
CLOSED, PREFLIGHT = "server/closed.py", "server/preflight.py"
AUTH, TOKENS = (f"client/mlflow_google_auth/{name}.py" for name in ("auth", "tokens"))
# The image would not start with an open configuration.
UNCHECKED: Edit = (PREFLIGHT, "    problems = open_settings(config)\n", "    problems = []\n")


def take_out(name: str, project: Path) -> None:
    """Take a protection out of a rendered project."""
    for file, old, new in PROTECTIONS[name].edits:
        path = project / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))


def config(old: str, new: str) -> tuple[Edit, ...]:
    """Return the edits for another setting of the proxy."""
    return (CFG, f"\n{old}\n", f"\n{new}\n"), UNCHECKED


REFUSED = "test_requests.py::test_the_service_refuses"
PROTECTIONS = {
    "the configuration is checked at the start": Protection(
        ((PREFLIGHT, "    return found\n\n\ndef allowed_emails", "    return []\n\n\ndef allowed_emails"),),
        (
            "test_preflight.py::test_an_open_setting_is_refused",
            "test_preflight.py::test_a_sign_in_that_anybodys_tokens_pass_is_refused",
        ),
    ),
    "the proxy is not told MLflow's secrets": Protection(
        ((START, "env -u BACKEND_STORE_URI -u MLFLOW_CRYPTO_KEK_PASSPHRASE", "env"),),
        ("test_logs.py::test_mlflow_knows_no_secret_of_the_proxy",),
    ),
    "no route without a login": Protection(
        config(
            "reverse_proxy = false", 'reverse_proxy = false\nskip_auth_routes = ["^/api/2.0/mlflow/runs"]'
        ),
        (REFUSED, "test_requests.py::test_nothing_reaches_the_upstream"),
    ),
    "forwarded headers are not believed": Protection(
        config("reverse_proxy = false", 'reverse_proxy = true\nskip_auth_routes = ["^/ping$"]'),
        (f"{REFUSED}[X-Forwarded-Uri", "test_requests.py::test_nothing_reaches_the_upstream"),
    ),
    "who may enter": Protection(
        ((PROXY, '"email_domains": list(allowed_domains)', '"email_domains": ["*"]'), UNCHECKED),
        (f"{REFUSED}[token of", "test_sessions.py::test_a_stranger_gets_no_session"),
    ),
    "only verified addresses": Protection(
        config("reverse_proxy = false", "reverse_proxy = false\ninsecure_oidc_allow_unverified_email = true"),
        (f"{REFUSED}[token of an unverified address",),
    ),
    "only this service's tokens": Protection(
        config(
            "reverse_proxy = false", 'reverse_proxy = false\noidc_extra_audiences = ["https://evil.test"]'
        ),
        (f"{REFUSED}[token for", "test_properties.py::test_no_other_claims_pass"),
    ),
    "a pipeline's job is nobody": Protection(
        (
            (PROXY, '= ["project_path", "aud"]', '= ["aud"]'),
            UNCHECKED,
        ),
        (f"{REFUSED}[token of a pipeline", "test_proxy.py::test_a_token_is_a_persons_and_of_this_sign_in"),
    ),
    "Entra's people are those who sign in": Protection(
        ((PROXY, '"oidc_email_claim"] = "preferred_username"', '"oidc_email_claim"] = "email"'),),
        ("test_proxy.py::test_entras_people_are_those_who_sign_in",),
    ),
    "a token is of this sign-in": Protection(
        ((PROXY, '"insecure_oidc_skip_nonce"] = False', '"insecure_oidc_skip_nonce"] = True'), UNCHECKED),
        (
            "test_sessions.py::test_a_callback_needs_the_sign_in_it_belongs_to",
            "test_sessions.py::test_the_provider_is_told_this_services_own_address",
        ),
    ),
    "a code needs its verifier": Protection(
        config('code_challenge_method = "S256"', ""),
        ("test_sessions.py::test_the_provider_is_told_this_services_own_address",),
    ),
    "a session ends": Protection(
        config('cookie_expire = "12h"', 'cookie_expire = "168h"'),
        (
            "test_sessions.py::test_a_changed_cookie_does_not",
            "test_sessions.py::test_signing_out_forgets_the_cookie_but_a_copy_lives_on",
        ),
    ),
    "the cookie is the host's": Protection(
        config('cookie_samesite = "lax"', 'cookie_samesite = "none"'),
        ("test_sessions.py::test_the_cookie_is_this_hosts_own",),
    ),
    "no redirect elsewhere": Protection(
        config("reverse_proxy = false", 'reverse_proxy = false\nwhitelist_domains = ["evil.test"]'),
        ("test_sessions.py::test_a_sign_in_leads_nowhere_else",),
    ),
    "the address is the proxy's word": Protection(
        (
            *config("pass_user_headers = true", "pass_user_headers = false"),
            (CFG, "\npass_basic_auth = true\n", "\npass_basic_auth = false\n"),
        ),
        ("test_upstream.py::test_a_spoofed_identity_never_arrives",),
    ),
    "MLflow gets no token": Protection(
        ((START, "  export OAUTH2_PROXY_BASIC_AUTH_PASSWORD\n", ""),),
        ("test_upstream.py::test_the_upstream_learns_who_and_gets_no_token",),
    ),
    "MLflow's code sees no credentials": Protection(
        ((CLOSED, 'CREDENTIALS = (b"authorization", b"cookie")', "CREDENTIALS = ()"),),
        ("test_closed.py::test_the_app_sees_neither_token_nor_cookie",),
    ),
    "no experiment elsewhere": Protection(
        ((CLOSED, "if not value.startswith(LOCATIONS):", "if False:"),),
        ("test_mlflow.py::test_an_experiment_elsewhere_is_refused",),
    ),
    "no storage elsewhere": Protection(
        ((CLOSED, "if not artifact_uri.startswith(STORAGE):", "if False:"),),
        (
            "test_mlflow.py::test_a_place_that_got_into_the_database_is_not_used",
            "test_mlflow.py::test_a_model_in_a_file_is_neither_taken_nor_served",
            "test_mlflow.py::test_a_trace_in_a_file_is_not_served",
        ),
    ),
    "no gateway": Protection(
        ((DOCKERFILE, "MLFLOW_ENABLE_AI_GATEWAY=false", "MLFLOW_ENABLE_AI_GATEWAY=true"),),
        ("test_mlflow.py::test_the_gateway_is_closed",),
    ),
    "no assistant": Protection(
        ((CLOSED, 'or not scope["path"].startswith(ASSISTANT)', "or True"),),
        ("test_mlflow.py::test_the_assistant_is_closed",),
    ),
    "its own names only": Protection(
        ((SETTINGS, '"MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts)', '"MLFLOW_SERVER_ALLOWED_HOSTS": "*"'),),
        ("test_sessions.py::test_another_host_is_refused",),
    ),
    "its own origins only": Protection(
        ((SETTINGS, 'ORIGINS": ",".join(origins)', 'ORIGINS": "*"'),),
        ("test_sessions.py::test_another_origin_changes_nothing",),
    ),
    "no frames": Protection(
        ((DOCKERFILE, "    HOME=/tmp \\\n", "    HOME=/tmp MLFLOW_SERVER_X_FRAME_OPTIONS=NONE \\\n"),),
        ("test_sessions.py::test_a_request_in_a_frame_is_refused_by_browsers",),
    ),
    "the log says who": Protection(
        ((CFG, '"user":{{printf "%q" .Username}},"httpRequest"', '"user":"-","httpRequest"'),),
        ("test_logs.py::test_each_request_is_an_entry_that_says_who",),
    ),
    "no caller writes into the log": Protection(
        ((CFG, '"userAgent":{{.UserAgent}},"protocol"', '"userAgent":"{{.UserAgent}}","protocol"'),),
        ("test_logs.py::test_no_caller_writes_a_line",),
    ),
    "no secret in the log": Protection(
        ((START, "  export OAUTH2_PROXY_BASIC_AUTH_PASSWORD\n", '  cat "$OAUTH_PROXY_CONFIG"\n'),),
        ("test_logs.py::test_no_secret_is_in_the_log",),
    ),
    "the pipeline's trust is one repository and branch": Protection(
        (("deployment/cloud/federation.py", "for name, value in claims)", "for name, value in claims[:1])"),),
        ("test_federation.py::test_what_is_created", "test_federation.py::test_gitlab"),
    ),
    "a program's token goes to its service only": Protection(
        ((AUTH, "        if to != self._allowed:\n", "        if False:\n"),),
        ("test_client.py::test_not_to_another_server",),
    ),
    "a program's token goes by https only": Protection(
        ((AUTH, 'if not to.startswith("https://") and', "if False and"),),
        ("test_client.py::test_not_in_clear",),
    ),
    "a program's token is told to nobody": Protection(
        ((TOKENS, 'return f"{whose}, by', 'return f"{self.value}, by'),),
        ("test_client.py::test_not_into_logs_and_messages",),
    ),
}
