"""The views of the second issuer. Django imports this module after its models."""

import json
from collections import defaultdict

from django.http import JsonResponse
from django.urls import path
from oauth2_provider.models import AccessToken
from oauth2_provider.views import TokenView

calls: list[dict] = []
accepted: defaultdict[str, set[str]] = defaultdict(set)
"""The used tokens by client."""
refused: list[str] = []


def token(request):
    reply = TokenView.as_view()(request)
    if reply.status_code != 200:
        refused.append(reply.content.decode())
        return reply
    granted = AccessToken.objects.get(token=json.loads(reply.content)["access_token"])
    calls.append({"grant": request.POST.get("grant_type"), "client": granted.application.client_id})
    return reply


def chat(request):
    sent_token = request.headers.get("authorization", "").removeprefix("Bearer ")
    known_token = AccessToken.objects.filter(token=sent_token).first()
    if known_token is None or not known_token.is_valid(["chat"]):
        refused.append("unknown" if known_token is None else "expired")
        return JsonResponse({"error": {"message": "token is not alive"}}, status=401)
    accepted[known_token.application.client_id].add(sent_token)
    message = {"role": "assistant", "content": "Hello."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return JsonResponse({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def count(_):
    return JsonResponse(
        {"calls": calls, "refused": refused, "tokens": {client: len(used) for client, used in accepted.items()}}
    )


urlpatterns = [
    path("o/token/", token),
    path("v1/chat/completions", chat),
    path("count", count),
]
