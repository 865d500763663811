from __future__ import annotations

import base64
import math
import struct

from gatepass.demo.vectors import DIMENSIONS, in_base64, vector


def test_the_same_text_has_the_same_vector_and_another_text_another():
    assert vector("a") == vector("a") != vector("b")


def test_a_vector_has_length_one():
    assert len(vector("ü")) == DIMENSIONS
    assert math.isclose(math.hypot(*vector("ü")), 1.0, rel_tol=1e-6)


def test_both_encodings_hold_the_same_numbers():
    assert list(struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(in_base64(vector("x"))))) == vector("x")
