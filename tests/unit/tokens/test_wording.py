from __future__ import annotations

import pytest

from gatepass.tokens.wording import says_later, says_no


@pytest.mark.parametrize(
    "text",
    [
        *("wrong password", "wrong app secret", "invalid user name or password", "bad user or password"),
        *("Invalid credentials", "incorrect username or x", "no such app", "unknown client", "bad api key"),
        *("The username or password is wrong.", "user not found", "password error", "signature does not match"),
        *(
            "account locked",
            "your account has been locked",
            "Account 'bot' is locked",
            "too many failed login attempts",
        ),
        *("unauthorized", "Forbidden", "access denied", "authentication failed", "login incorrect", "HTTP 403"),
        *("AADSTS7000215: x", "invalid app_id", "用户名或密码错误", "密码不正确", "账号不存在", "账户已被锁定"),
        *("签名错误", "登录失败", "未授权", "无效的密钥", "密码错误次数过多，请稍后再试", "用户名或密码错误，请重试"),
    ],
)
def test_words_of_a_refusal(text):
    assert says_no(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "ok", "E-4711", "connection refused", "HTTP 4011", "timeout", "temporary failure", "error 503"),
        *("wrong: ***", "system busy", "login failed: service temporarily unavailable", "系统繁忙，请稍后重试"),
        *("登录失败，系统异常", "parameter error", "the secret of a good life", "操作失败"),
    ],
)
def test_words_that_are_none(text):
    assert not says_no(text)


@pytest.mark.parametrize(
    "text",
    [
        *("busy", "please try again later", "temporarily unavailable", "timed out", "connection timeout", "overloaded"),
        *("too many requests", "rate limit", "internal server error", "system error", "Bad Gateway", "系统繁忙"),
        *("请稍后再试", "服务器内部错误", "请求超时", "系统异常", "操作过于频繁", "正在维护"),
    ],
)
def test_words_of_an_outage(text):
    assert says_later(text)


@pytest.mark.parametrize("text", ["", "wrong password", "密码错误", "E-4711", "no", "操作失败"])
def test_words_of_no_outage(text):
    assert not says_later(text)
