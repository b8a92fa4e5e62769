"""``make bench``: every step, the whole way, latency, memory, the full way on real servers; beside a yardstick.

``make bench PEER=telegraf`` measures the full way alone, and Telegraf on the same stream.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING, Final

from bench import full, peer
from bench.figures import figures
from bench.live import latency, latest
from bench.steps import steps, yardstick
from bench.whole import rounds

if TYPE_CHECKING:
    from bench.catalogue import Layer

LAYERS: Final[dict[Layer, str]] = {
    "first": "ranges, rate, spike, thresholds, silence", "all": "all default checks and twelve rules a station"
}  # fmt: skip


def _median(runs: list[dict[str, float]], key: str) -> str:
    values = sorted(run[key] for run in runs)
    return f"{statistics.median(values):.1f} ({values[0]:.1f} to {values[-1]:.1f})"


def main() -> None:
    """Run everything; the last line is the whole way."""
    parser = argparse.ArgumentParser(description="Costs per message of eight readings; 2,000 stations.")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--full", action="store_true", help="only the full way MQTT, Kafka, InfluxDB")
    parser.add_argument("--peer", choices=["telegraf"], help="the full way, and another program on the same stream")
    options = parser.parse_args()
    print(f"yardstick: {yardstick():.1f} ms for a fixed Python loop (Telegraf's figures were taken at 20 to 34)")
    if options.peer or options.full:
        theirs = peer.report(quick=options.quick) if options.peer else ()
        for line in (*full.report(quick=options.quick), *theirs):
            print(line, flush=True)
        print(f"yardstick: {yardstick():.1f} ms")
        return
    _embedded(quick=options.quick)


def _embedded(*, quick: bool) -> None:
    runs, count = (3, 40_000) if quick else (5, 100_000)
    for name, us in steps():
        print(f"step: {us:5.1f} us/message  {name}")
    print(figures(), flush=True)
    for rate, goal in ((500, " (goal 250)"), (2000, ", where flushes wait to be joined")):
        live = latency(rate)
        print(f"publish to SSE at {rate:,} messages/s: p50 {live['p50_ms']:.0f} ms, p99 {live['p99_ms']:.0f} ms{goal}")
    answer = latest()
    print(f"/api/latest of {answer['series']:,} series: {answer['ms']:.0f} ms (goal 200)")
    # DuckDB keeps as much of the dataset in memory as it may, 18 MB a round: what would leak shows once that is full.
    long = rounds(runs=1 if quick else 5, count=250_000, rate=0, environ={"QINGTU_STORE__MEMORY_LIMIT": "64MB"})
    memory = ", ".join(f"{r['rss_mb']:.0f} MB" for r in long)
    print(f"memory after each 250,000 messages, 64 MB for DuckDB, 4 MB more a round to know duplicates: {memory}")
    for line in full.report(quick=quick):
        print(line, flush=True)
    plain = rounds(runs=runs, count=count // 2, rate=0, receive="plain")
    print(f"whole, plain receive path: {_median(plain, 'us')} us/message")
    for layer in LAYERS:
        paced = rounds(runs=runs, count=20_000, rate=2000, layer=layer)
        title = f"whole at 2,000 messages/s, flush 100 ms, {LAYERS[layer]}"
        print(f"{title}: {_median(paced, 'us')} us/message", flush=True)
    first = rounds(runs=runs, count=count, rate=0, layer="first")
    print(f"whole, {LAYERS['first']}: {_median(first, 'us')} us/message (goals 20, and 40 at 2,000 messages/s)")
    whole = rounds(runs=runs, count=count, rate=0)
    print(f"yardstick: {yardstick():.1f} ms; {_median(whole, 'per_s')} messages/s until stored")
    print("peers on the same work: Telegraf 78 us with checks and alerts, a bare Go subscriber 11.5 us")
    print(f"whole: {statistics.median(r['us'] for r in whole):.1f} us/message")


if __name__ == "__main__":
    main()
