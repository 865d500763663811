"""Rules that change a request, and rules that are learned from an upstream's rejections. Pure: no I/O.

Rules: rule, draft, built_in, declared, profile; members, messages, streams, images, embeddings_request, rerank; and
embeddings_reply, which checks what an embeddings call is answered. They import nothing of the rest.
Learning: quoted, rejection, rejection_parser, allowance, advice, learned_rule, memory, crowd, session, export.
"""
