"""What holds for every test."""

import httpx2

httpx2.alias_httpx()  # before anything imports httpx: respx patches httpx2 then
