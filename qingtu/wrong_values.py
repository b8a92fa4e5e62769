"""Says what is wrong with a value in plain words and what is allowed: pydantic's own texts are for programmers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic_core import ErrorDetails

PATTERNS: Final[Mapping[str, str]] = {
    r"^[a-z][a-z0-9_-]{0,31}$": (
        "小写字母开头, 其后为小写字母、数字、_ 或 -, 至多 32 个 / "
        "a small letter, then small letters, digits, _ or -; at most 32 characters"
    ),
    r"^[a-z0-9][a-z0-9_-]{0,31}$": (
        "小写字母或数字开头, 其后还可用 _ 和 -, 至多 32 个 / "
        "a small letter or digit, then also _ and -; at most 32 characters"
    ),
    r"^[A-Za-z][A-Za-z0-9_-]{0,63}$": (
        "字母开头, 其后为字母、数字、_ 或 -, 至多 64 个 / a letter, then letters, digits, _ or -; at most 64 characters"
    ),
    r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$": (
        "字母或数字开头, 其后还可用 _ . -, 至多 64 个 / a letter or digit, then also _ . and -; at most 64 characters"
    ),
    r"^[^\s/+#$][^\s/+#]{0,127}$": (
        "不含空格与 / + #, 不以 $ 开头, 至多 128 个字符 / "
        "no space, / + or #, and no $ in front: it stands in a topic; at most 128 characters"
    ),
    r"^([01]\d|2[0-3]):[0-5]\d$": '时刻, 如 "22:00" (加引号) / a time of day such as "22:00", in quotes',
    r"^\d{6}$": "六位行政区划代码, 如 370202 / the six digits of a district, such as 370202",
    r"^\d+(\.\d+)?(MB|GB)$": "如 512MB 或 1.5GB / such as 512MB or 1.5GB",
    r"^https?://": "以 http:// 或 https:// 开头的地址 / an address that begins with http:// or https://",
}
"""What each pattern of our models means; a test holds that none is missing."""

_WHOLE: Final = "须为整数 / must be a whole number"
_NUMBER: Final = "须为数值 / must be a number"
_FLAG: Final = "须为 true 或 false / must be true or false"
_LIST: Final = "须为列表 / must be a list"
_TABLE: Final = "须为键值表 / must be a table of keys and values"

_MOMENT: Final = (
    "须为带时区的时间 / must be a time with its offset from UTC, such as 2026-11-23T08:00:00+08:00, in quotes"
)

_SENTENCES: Final[Mapping[str, str]] = {
    "missing": "缺少 / is missing",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "须为有限数值 / must be a finite number",
    "bool_type": _FLAG,
    "bool_parsing": _FLAG,
    "string_type": "须为文本, 必要时加引号 / must be text; put it in quotes",
    "string_unicode": "须为 UTF-8 文本 / must be UTF-8 text",
    "string_too_short": "至少 {min_length} 个字符 / must have at least {min_length} characters",
    "string_too_long": "至多 {max_length} 个字符 / must have at most {max_length} characters",
    "invalid_key": "键须为文本, 加引号 / keys must be text: put it in quotes",
    "path_type": "须为路径文本 / must be a path, in quotes",
    "greater_than": "须大于 {gt} / must be greater than {gt}",
    "greater_than_equal": "不得小于 {ge} / must be at least {ge}",
    "less_than": "须小于 {lt} / must be less than {lt}",
    "less_than_equal": "不得大于 {le} / must be at most {le}",
    "too_short": "至少 {min_length} 项 / must have at least {min_length} of them",
    "too_long": "至多 {max_length} 项 / must have at most {max_length} of them",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _TABLE,
    "model_type": _TABLE,
    "model_attributes_type": _TABLE,
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_from_date_parsing": _MOMENT,
    "timezone_aware": _MOMENT,
    "union_tag_not_found": "缺少 kind / kind is missing",
}


def sentence(detail: ErrorDetails) -> str:
    """Return what is wrong with a value and what is allowed, "中文 / English".

    Args:
        detail: pydantic's error. Errors of our own validators keep their text; so do kinds that none of our
            models can raise.
    """
    context: dict[str, Any] = detail.get("ctx", {})
    kind = detail["type"]
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return f"须为 / must be: {PATTERNS.get(pattern, pattern)}"
    if kind in ("literal_error", "enum"):
        words, value = ", ".join(choices(detail)), detail["input"]
        if not isinstance(value, str) and f"'{value}'" in str(context.get("expected")):
            return f'须加引号 / is a number and must be text: write "{value}", in quotes; must be one of {words}'
        return f"须为其一 / must be one of {words}"
    if kind == "union_tag_invalid":
        return f"kind 须为其一 / kind must be one of {context['expected_tags']}"
    known = _SENTENCES.get(kind)
    return str(detail["msg"]).removeprefix("Value error, ") if known is None else known.format_map(context)


def choices(detail: ErrorDetails) -> list[str]:
    """Return the words that a choice allows."""
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return expected.replace(" or ", ", ").replace("'", "").split(", ")
