import pytest

from gatepass.upstream import codes
from gatepass.upstream.complaint import read_complaint


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, 7),
        ("007", 7),
        (-1, -1),
        (True, None),
        ("-1", None),
        ("1.0", None),
        (1.0, None),
        (None, None),
        ("²", None),
        ("", None),
        ("9" * 12, 999999999999),
        ("9" * 13, None),
        (10**12, None),
        ([], None),
    ],
)
def test_number_is_read_where_it_is_one(value, expected):
    assert codes.whole_number(value) == expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (100, "", 502),
        (101, "", 400),
        (102, "You have to provide messages.", 400),
        (102, "You don't own the chat x", 404),
        (102, "Chat NOT FOUND", 404),
        (103, "", 400),
        (105, "", 502),
        (106, "", 503),
        (108, "", 403),
        (109, "", 403),
        ("102", "", 400),
        (104, "", None),
        (None, "", None),
        ("x", "", None),
    ],
)
def test_ragflow_code_has_its_status(code, text, expected):
    assert codes.ragflow_status(code, text) == expected


def test_http_errors_are_400_to_599():
    numbers = (None, 399, 400, 599, 600)
    assert [codes.is_http_error(number) for number in numbers] == [False, False, True, True, False]


def test_success_is_told_from_failure():
    fine = [0, "0", 200, "200", 201, "000000", "success", " OK ", "", None, True, False, [], 0.5]
    failed = [1, 102, 199, 300, 401, -1, "1", "401", "InvalidParameter", "no"]
    assert [codes.is_success(code) for code in fine] == [True] * len(fine)
    assert [codes.is_success(code) for code in failed] == [False] * len(failed)


def test_each_status_has_a_kind():
    kinds = {status: codes.kind_of(status) for status in (400, 401, 403, 404, 422, 429, 500, 503)}
    assert kinds == {
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "invalid_request_error",
        422: "invalid_request_error",
        429: "rate_limit_error",
        500: "server_error",
        503: "server_error",
    }


@pytest.mark.parametrize("code", ["InvalidParameter", "DataInspectionFailed", "data_inspection_failed"])
def test_a_refused_request_inside_a_200_is_no_fault_of_the_server(code):
    assert codes.STATUS_OF_CODE[code.lower()] == 400
    complaint = read_complaint({"code": code, "message": "no", "request_id": "1"})
    assert complaint is not None
    assert complaint.status == 400


def test_a_status_of_400_or_more_is_an_error():
    assert [codes.is_error(status) for status in (200, 399, 400, 599, 999)] == [False, False, True, True, True]
