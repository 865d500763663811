"""How rerank servers want to be asked."""

from __future__ import annotations

from typing import Literal

RerankShape = Literal["cohere", "jina", "tei", "vllm", "xinference"]
"""What an upstream's rerank endpoint reads and answers. All take `{model, query, documents, top_n}` and answer
`{results: [{index, relevance_score}]}` but `tei` (Text Embeddings Inference), which takes `{query, texts}` and
answers a bare list of `{index, score}`. `jina` is what most servers imitate."""
