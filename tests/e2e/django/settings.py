"""Django's settings of the second issuer, from the environment variables of the test."""

import os
import tempfile
from pathlib import Path

_folder = tempfile.TemporaryDirectory()

SECRET_KEY = "only-for-this-run-of-the-tests-and-nothing-else"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "oauth2_provider"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(Path(_folder.name) / "db.sqlite3")}}
# The usual ones compute for a second, of which a token of five seconds has nothing left on a busy machine.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
OAUTH2_PROVIDER = {
    "ACCESS_TOKEN_EXPIRE_SECONDS": int(os.environ["TOKEN_LIFE_S"]),
    "ROTATE_REFRESH_TOKEN": True,
    "SCOPES": {"chat": "Talk to models"},
}
