"""The views of the second issuer. Django imports this module after its models."""

from __future__ import annotations

from django.http import JsonResponse
from django.urls import path
from oauth2_provider.models import AccessToken
from oauth2_provider.views import TokenView

calls: list[dict] = []
accepted: dict[str, int] = {}
refused: list[str] = []


def token(request):
    reply = TokenView.as_view()(request)
    calls.append({"grant": request.POST.get("grant_type"), "status": reply.status_code})
    return reply


def chat(request):
    sent_token = request.headers.get("authorization", "").removeprefix("Bearer ")
    known_token = AccessToken.objects.filter(token=sent_token).first()
    if known_token is None or not known_token.is_valid(["chat"]):
        refused.append("unknown" if known_token is None else "expired")
        return JsonResponse({"error": {"message": "token is not alive"}}, status=401)
    accepted[sent_token] = accepted.get(sent_token, 0) + 1
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
