"""The second issuer: Django OAuth Toolkit, opaque tokens that live TOKEN_LIFE_S seconds, rotating refresh tokens.

It is an upstream as well: `POST /v1/chat/completions` accepts only a token that is valid in its database at that
moment. `GET /count` returns the token calls with grant and status, and the accepted and refused requests.
"""

import os
import signal
import sys

from django.apps import apps
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from waitress import create_server

CLIENT_SECRET = os.environ["CLIENT_SECRET"]
USER, PASSWORD = os.environ["USER_NAME"], os.environ["USER_PASSWORD"]


def register() -> None:
    """Create the user, and the clients."""
    application = apps.get_model("oauth2_provider", "Application")
    user = apps.get_model("auth", "User").objects.create_user(USER, password=PASSWORD)
    own = application.GRANT_CLIENT_CREDENTIALS
    for name, grant in (("basic", own), ("post", own), ("login", application.GRANT_PASSWORD)):
        application.objects.create(
            client_id=name,
            client_secret=CLIENT_SECRET,
            client_type=application.CLIENT_CONFIDENTIAL,
            authorization_grant_type=grant,
            user=user,
            name=name,
        )


def main() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    application = get_wsgi_application()
    call_command("migrate", verbosity=0)
    register()
    server = create_server(application, host="127.0.0.1", port=0, threads=8)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on http://127.0.0.1:{server.effective_port}", flush=True)
    server.run()


if __name__ == "__main__":
    main()
