"""The application of gatepass under plain uvicorn, configured by GATEPASS_CONFIG."""

from __future__ import annotations

import os

from gatepass import create_app, load_config

app = create_app(load_config(os.environ["GATEPASS_CONFIG"]))
