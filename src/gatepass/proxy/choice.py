"""The one place that chooses between the dialects."""

from __future__ import annotations

from gatepass.config.upstream import Azure, Ragflow, Upstream
from gatepass.dialects.azure import AzureDialect, deployment_of
from gatepass.dialects.base import Dialect
from gatepass.dialects.ragflow import RagflowBody, RagflowDialect


def dialect_of(settings: Upstream) -> Dialect:
    """The protocol that `settings` say an upstream speaks."""
    if settings.dialect == "azure":
        return AzureDialect(settings=settings.azure or Azure(), deployment=deployment_of(settings.base_url))
    if settings.dialect == "ragflow":
        ragflow = settings.ragflow or Ragflow()
        return RagflowDialect((RagflowBody(ragflow.images, ragflow.paths),), paths=ragflow.paths)
    return Dialect()
