"""The InfluxDB server as the store sees it: write text, ask InfluxQL, and what each answer of the server means.

| answer | means | raised |
| --- | --- | --- |
| 204, 200 | done | |
| 400, 413, 422 | the server does not take (some of) these lines, however often they come | :class:`Refused` |
| 401, 403, 404 | the token or a bucket is wrong: somebody must mend it | RetryLater with advice, slowly |
| 429, 500, 503, no answer | not now | RetryLater, after the pause that the server names |
"""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import urllib3
from influxdb_client.client.influxdb_client import InfluxDBClient
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.domain.write_precision import WritePrecision
from influxdb_client.rest import ApiException

from qingtu.errors import QingtuError, RetryLater, StartError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qingtu.settings import InfluxSettings

_PAUSE_S: Final = 1.0
_MEND_S: Final = 30.0
"""Pause when somebody must mend something first."""
_LONGEST_S: Final = 300.0
_WORDS: Final = 300
"""The server echoes bad lines whole: its words are cut to so many characters."""
_GUILTY: Final = frozenset((400, 413, 422))
_NS: Final[Any] = WritePrecision.NS
_PROOF: Final = b"name,tags,name\ndatabases,"
_ADVICE: Final = {
    401: "令牌无效 / the token in influx.token_file is not known to the server: qingtu setup makes one",
    403: "令牌没有该存储桶的权限 / the token may not use this bucket: qingtu setup makes one that may",
    404: "没有此存储桶或组织 / no such bucket or organisation: check influx.org and the buckets, run qingtu setup",
}


class Refused(QingtuError):  # noqa: N818 - an answer of the server, not yet anybody's error
    """The server took none (400) or not all (422) of the lines, and never will.

    Attributes:
        status: HTTP status.
        words: what the server said, cut to a sane length.
        dropped: how many lines it says it dropped: at least so many; 0 when it does not say.
    """

    def __init__(self, status: int, words: str) -> None:
        self.status = status
        self.words = words[:_WORDS]
        found = re.findall(r"dropped(?:=| )(\d+)", words)
        self.dropped = int(found[-1]) if found else 0
        super().__init__(f"InfluxDB {status}: {self.words}")


class InfluxClient:
    """One server and one token. Any thread may ask; one thread writes.

    Args:
        settings: where the server is.
        token: the secret itself.
    """

    def __init__(self, settings: InfluxSettings, token: str) -> None:
        self.settings = settings
        self._timeout = urllib3.Timeout(connect=min(10, settings.timeout_s), read=settings.timeout_s)
        self._api = InfluxDBClient(
            settings.url, token, org=settings.org, timeout=settings.timeout_s * 1000, enable_gzip=settings.gzip
        )
        self._write = self._api.write_api(write_options=SYNCHRONOUS)
        self._pool = urllib3.PoolManager(maxsize=4, retries=False, timeout=self._timeout)
        self._headers = {"Authorization": f"Token {token}"}

    def write(self, bucket: str, text: bytes) -> None:
        """Write lines; returns when the server has them (204).

        Raises:
            Refused: see there.
            RetryLater: nothing or some of it is written; the same text may be written again.
        """
        try:
            self._write.write(bucket, self.settings.org, text, write_precision=_NS)
        except ApiException as error:
            status, words = int(error.status or 0), _words(error.body)
            if status in _GUILTY:
                raise Refused(status, words) from error
            raise self._later(status, words, dict(error.headers or {})) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._gone(error) from error

    def query(self, bucket: str, influxql: str) -> bytes:
        """Ask one InfluxQL statement; times come as ns.

        Returns:
            CSV with columns name, tags, time, then what was selected; b"" when nothing was found.

        Raises:
            RetryLater: the server does not answer now.
            QingtuError: the server does not understand the question.
        """
        # In CSV an error is an empty answer with status 200, as if nothing were stored. A second statement is not
        # executed after an error: its answer proves that the first one was.
        form = {"db": bucket, "q": f"{influxql}; SHOW DATABASES", "epoch": "ns"}
        status, body, headers = self._ask("POST", "/query", form, {"Accept": "application/csv"})
        end = body.rfind(_PROOF)
        if status == 200 and end >= 0 and all(line.startswith(b"databases,") for line in _lines(body[end:])[1:]):
            return body[:end].rstrip(b"\n")
        if status == 200:
            form["q"] = influxql
            status, body, headers = self._ask("POST", "/query", form, {"Accept": "application/json"})
        words = _words(body)
        if "database not found" in words:
            raise self._later(404, words, headers)
        if status in (200, 400, 422):
            raise QingtuError(f"InfluxDB does not answer {influxql[:_WORDS]!r} ({status}): {words[:_WORDS]}")
        raise self._later(status, words, headers)

    def table(self, bucket: str, influxql: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
        """Ask, and read the answer into columns; what the server does not have is null.

        ``time`` is int64, µs; ``slot``, int64, what is left of the ns (0 to 999).

        Args:
            bucket: to ask.
            influxql: one SELECT statement without GROUP BY of tags that are wanted as columns.
            columns: name and type of each selected column but ``time``.
        """
        return read_csv(self.query(bucket, influxql), columns)

    def call(self, method: str, path: str, data: Any = None) -> Any:
        """Call the management API with JSON.

        Raises:
            RetryLater: no answer, or not now.
            QingtuError: refused.
        """
        body = None if data is None else orjson.dumps(data)
        status, answer, headers = self._ask(method, path, body, {"Content-Type": "application/json"})
        if status in (200, 201, 204):
            return orjson.loads(answer) if answer else None
        if status in (400, 409, 422):
            raise QingtuError(f"InfluxDB refuses {method} {path} ({status}): {_words(answer)[:_WORDS]}")
        raise self._later(status, _words(answer), headers)

    def check(self, buckets: Sequence[str]) -> None:
        """Say at the start what would not heal by itself.

        Raises:
            StartError: the token or a bucket is wrong.
            RetryLater: the server does not answer.
        """
        for bucket in buckets:
            try:
                self.query(bucket, "SHOW FIELD KEYS LIMIT 1")  # SHOW MEASUREMENTS answers without the right, too
            except NeedsMending as error:
                raise StartError(str(error)) from error

    def close(self) -> None:
        """Let go of connections."""
        self._write.close()  # type: ignore[no-untyped-call]
        self._api.close()  # type: ignore[no-untyped-call]
        self._pool.clear()

    def _ask(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
        wanted = {**self._headers, **headers}
        try:
            if isinstance(body, dict):
                answer = self._pool.request(
                    method, self.settings.url + path, fields=body, encode_multipart=False, headers=wanted
                )
            else:
                answer = self._pool.request(method, self.settings.url + path, body=body, headers=wanted)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._gone(error) from error
        return answer.status, answer.data, dict(answer.headers)

    def _later(self, status: int, words: str, headers: Mapping[str, str]) -> RetryLater:
        if status in _ADVICE:
            return NeedsMending(f"InfluxDB {self.settings.url} {status}: {_ADVICE[status]} ({words[:_WORDS]})")
        asked = next((value for name, value in headers.items() if name.lower() == "retry-after"), "")
        pause = min(float(asked), _LONGEST_S) if asked.isdigit() else _PAUSE_S
        return RetryLater(
            f"InfluxDB 暂不接受 / InfluxDB {self.settings.url} takes nothing now ({status}): {words[:_WORDS]}",
            retry_after_s=max(pause, _PAUSE_S),
        )

    def _gone(self, error: Exception) -> RetryLater:
        return RetryLater(
            f"InfluxDB 无应答 / InfluxDB {self.settings.url} does not answer: {str(error)[:_WORDS]}",
            retry_after_s=_PAUSE_S,
        )


class NeedsMending(RetryLater):
    """The token or a bucket is wrong. It is tried again, slowly, since it may be mended while the service runs."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=_MEND_S)


def read_csv(data: bytes, columns: Mapping[str, pa.DataType]) -> pa.Table:
    """Read a CSV answer with one header; see :meth:`InfluxClient.table`."""
    types = {"time": pa.int64(), **columns}
    if not data.strip():
        return pa.table({name: pa.array([], kind) for name, kind in {**types, "slot": pa.int64()}.items()})
    table = pyarrow.csv.read_csv(
        io.BytesIO(data),
        read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=max(1 << 20, min(len(data), 1 << 28))),
        parse_options=pyarrow.csv.ParseOptions(
            newlines_in_values=any(pa.types.is_string(kind) for kind in types.values())
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(types),
            include_missing_columns=True,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )
    time = table.schema.get_field_index("time")
    ns = np.asarray(table.column("time"))
    return table.set_column(time, "time", pa.array(ns // 1000)).append_column("slot", pa.array(ns % 1000))


def rows_of_csv(data: bytes) -> list[dict[str, str]]:
    """Read a small CSV answer with one header, all as text."""
    return list(csv.DictReader(io.StringIO(data.decode())))


def _lines(text: bytes) -> list[bytes]:
    return text.rstrip(b"\n").split(b"\n")


def _words(body: Any) -> str:
    """Take the message out of an error's body: JSON, CSV or anything."""
    text = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
    found = re.search(r'"(?:message|error)"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
    return (found[1] if found else text).replace('\\"', '"').strip()
