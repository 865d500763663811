"""What the second issuer answers. Django imports this when its models are there."""

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
