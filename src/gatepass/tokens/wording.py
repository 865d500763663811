"""What the words of an issuer mean: no, not now, or nobody knows. Values in, values out."""

from __future__ import annotations

import re

_WRONG = r"wrong|bad|invalid|incorrect|unknown|mismatched|unrecogni[sz]ed|no such|nonexistent"
_PROOF = (
    r"user ?names?|users?|log-?ins?|accounts?|passwords?|passwd|pass ?phrase|pass ?code|credentials?|clients?|secrets?"
    r"|api ?keys?|app(?:lication)?[ _]?(?:id|key)|client_?id|app|pin|signatures?|identity"
)
_NOT_SO = (
    r"(?:is |are |was |were |has |been )*(?:wrong|bad|incorrect|invalid|mismatch(?:ed)?|unknown|locked|disabled"
    r"|expired|error|not found|(?:(?:does|do) not|doesn'?t) (?:match|exist)|not (?:correct|valid|match(?:ed)?|exist))"
)
_PROOF_ZH = r"用户名?|账号|帐号|账户|帐户|密码|口令|密钥|秘钥|密匙|凭证|凭据|签名|应用|客户端|身份"
_NOT_SO_ZH = (
    r"错|不正确|不对|不匹配|不符|不一致|无效|非法|有误|不存在|未找到"
    r"|已?被?(?:锁|禁用|停用|冻结)|已?过期|已?失效"
)
_CREDENTIALS = re.compile(
    rf"\b(?:{_WRONG})\W+(?:\w+\W+){{0,2}}?(?:{_PROOF})\b"
    rf"|\b(?:{_PROOF})\W+{_NOT_SO}\b"
    r"|\btoo many (?:\w+ ){0,2}(?:log-?ins?|attempts|passwords)\b|\baccount\W+(?:\w+\W+){0,2}locked\b|\bAADSTS[0-9]+\b"
    rf"|(?:{_PROOF_ZH})[^，。,.;；!！]{{0,6}}?(?:{_NOT_SO_ZH})|(?:错误|无效|非法)的?(?:{_PROOF_ZH})|次数过多",
    re.IGNORECASE,
)
"""Of who signs in: the next try with the same secret brings a lock nearer."""
_DENIAL = re.compile(
    r"\bunauthori[sz]ed\b|\bforbidden\b|\bnot (?:authenticated|authori[sz]ed|allowed|permitted)\b|\b40[13]\b"
    r"|\b(?:access|permission|login) denied\b|\bpermission required\b"
    r"|\b(?:authentication|authori[sz]ation|login|sign-?in) (?:failed|denied|incorrect|failure|error)\b"
    r"|未授权|未认证|无权限?|没有权限|权限不足|拒绝访问|(?:认证|鉴权|登[录陆]|验证|授权)(?:失败|错误)",
    re.IGNORECASE,
)
"""A no that may have other reasons: said beside a word of _PASSING it means that one."""
_PASSING = re.compile(
    r"\bbusy\b|\b(?:try|retry)(?: it)?(?: again)? (?:later|in|after)\b|\btemporar|\btime-?d?[ -]?out\b|\bunavailable\b"
    r"|\bover(?:load|capacity)|\btoo many requests\b|\b(?:rate|flow)[ -]?limit|\bthrottl|\bmaintenance\b"
    r"|\b(?:internal|server|system|service|database|db|network|unknown) (?:error|exception|failure|fault)\b"
    r"|\bconnect(?:ion)? (?:refused|reset|failed|timed out)\b|\bgateway\b|\bshutting down\b|\bstarting\b"
    r"|繁忙|忙碌|稍后|稍候|超时|(?:系统|服务器?|网络|内部|数据库)[^，。,.]{0,3}(?:异常|错误|故障|不可用)|维护|限流|过于?频繁",
    re.IGNORECASE,
)


def says_no(text: str) -> bool:
    """Whether `text` says that a later try with the same secret ends the same: a wrong password, a locked account."""
    if _CREDENTIALS.search(text):
        return True
    return _DENIAL.search(text) is not None and _PASSING.search(text) is None


def says_wrong(text: str) -> bool:
    """Whether `text` names what is wrong of what was signed in with, as only the issuer itself can know."""
    return _CREDENTIALS.search(text) is not None


def says_later(text: str) -> bool:
    """Whether `text` speaks of an outage: waiting helps, and asking again does no harm."""
    return _PASSING.search(text) is not None
