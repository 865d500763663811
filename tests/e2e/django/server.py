"""The second issuer: Django OAuth Toolkit, opaque tokens that live TOKEN_LIFE_S seconds, rotating refresh tokens.

It is an upstream as well: `POST /v1/chat/completions` answers only a token that is alive in its database
at that very moment. `GET /count` is the ledger of the tests: token calls by grant with their status, and
what the upstream accepted and refused.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

import django
from django.conf import settings

LIFE_S = int(os.environ["TOKEN_LIFE_S"])
CLIENT_ID, CLIENT_SECRET = os.environ["CLIENT_ID"], os.environ["CLIENT_SECRET"]
USER, PASSWORD = os.environ["USER_NAME"], os.environ["USER_PASSWORD"]

folder = tempfile.TemporaryDirectory()
settings.configure(
    SECRET_KEY="only-for-this-run-of-the-tests-and-nothing-else",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(Path(folder.name) / "db.sqlite3")}},
    OAUTH2_PROVIDER={
        "ACCESS_TOKEN_EXPIRE_SECONDS": LIFE_S,
        "ROTATE_REFRESH_TOKEN": True,
        "SCOPES": {"chat": "Talk to models"},
    },
)
django.setup()

from django.contrib.auth.models import User  # noqa: E402 - Django wants to be set up first
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from oauth2_provider.models import AccessToken, Application  # noqa: E402
from oauth2_provider.views import TokenView  # noqa: E402
from waitress import create_server  # noqa: E402

calls: list[dict] = []
accepted: dict[str, int] = {}
refused: list[str] = []


def token(request):
    reply = TokenView.as_view()(request)
    calls.append({"grant": request.POST.get("grant_type"), "status": reply.status_code})
    return reply


def chat(request):
    shown = request.headers.get("authorization", "").removeprefix("Bearer ")
    found = AccessToken.objects.filter(token=shown).first()
    if found is None or not found.is_valid(["chat"]):
        refused.append("unknown" if found is None else "expired")
        return JsonResponse({"error": {"message": "token is not alive"}}, status=401)
    accepted[shown] = accepted.get(shown, 0) + 1
    message = {"role": "assistant", "content": "Hello."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JsonResponse({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def count(_):
    return JsonResponse({"calls": calls, "refused": refused, "tokens": list(accepted.values())})


urlpatterns = [
    path("o/token/", token),
    path("v1/chat/completions", chat),
    path("count", count),
]


def main() -> None:
    call_command("migrate", verbosity=0)
    user = User.objects.create_user(USER, password=PASSWORD)
    for suffix, grant in (("", Application.GRANT_CLIENT_CREDENTIALS), ("-login", Application.GRANT_PASSWORD)):
        Application.objects.create(
            client_id=CLIENT_ID + suffix,
            client_secret=CLIENT_SECRET,
            client_type=Application.CLIENT_CONFIDENTIAL,
            authorization_grant_type=grant,
            user=user,
            name=f"gatepass{suffix}",
        )
    server = create_server(get_wsgi_application(), host="127.0.0.1", port=0, threads=8)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on http://127.0.0.1:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
