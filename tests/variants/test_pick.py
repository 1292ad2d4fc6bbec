"""Picking: limits are kept by what was measured, judged by the worse end of its interval; and every loser hears why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from layouts import SEEN

from mlopt.errors import BudgetInfeasible
from mlopt.target import find_target
from mlopt.variants.evidence import Evidence
from mlopt.variants.pick import Limits, Picked, pick
from mlopt.variants.variant import Layer, Platform, Variant


def variant(name: str, *, size: int = 38_000_000, evidence: Evidence | None = SEEN, target: str = "rpi5") -> Variant:
    platforms = tuple(
        Platform(platform, "sha256:" + "p" * 64, (Layer("base", "sha256:" + "b" * 64, size + more),))
        for platform, more in (("linux/amd64", 5_000_000), ("linux/arm64", 0))
    )
    return Variant(name, f"sha256:{name}", name, (), {"io.mlopt.target": target}, platforms, evidence, ())


LIMITS = Limits(find_target("rpi5"), max_size=40_000_000, max_latency=0.020, min_accuracy=0.7)


def reasons(picked: Picked) -> dict[str, str]:
    return {one.variant.name: one.why for one in picked.lost}


def test_one_digest_and_why_the_others_lost() -> None:
    picked = pick(
        [
            variant("good"),
            variant("large", size=41_000_000),
            variant("slow", evidence=replace(SEEN, p50=0.0195, p50_high=0.021)),
            variant("wrong", evidence=replace(SEEN, top1=0.71, top1_low=0.68)),
            variant("elsewhere", target="host"),
            variant("unmeasured", evidence=replace(SEEN, p50=None, p50_high=None)),
            variant("unlabelled", evidence=replace(SEEN, top1=None, top1_low=None)),
            variant("unknown", evidence=None),
            variant("larger", size=39_000_000),
        ],
        LIMITS,
    )
    assert picked.variant.digest == "sha256:good"
    assert picked.why.startswith("the smallest of 2 that keep what was asked: 38.0 MB; p50 18.0 ms, at most 19.0 ms")
    why = reasons(picked)
    assert why["large"] == "its image is 41.0 MB compressed, the limit is 40.0 MB"
    assert "proven to be at most 21.0 ms, the limit is 20.0 ms" in why["slow"]
    assert "at least 68.0 %, the limit is 70.0 %" in why["wrong"]
    assert why["elsewhere"] == "it was compiled for host, not for rpi5"
    assert why["unmeasured"] == "its latency was never measured on rpi5"
    assert why["unlabelled"] == "its accuracy was never measured on labelled samples"
    assert "latency was never measured" in why["unknown"]
    assert "accuracy was never measured" in why["unknown"]
    assert why["larger"].startswith("it keeps what was asked and is larger: 39.0 MB")


def test_best_by() -> None:
    small = variant("small", size=1, evidence=replace(SEEN, p50=0.03, p50_high=0.031, top1=0.5))
    fast = variant("fast", size=2, evidence=replace(SEEN, p50=0.01, p50_high=0.011, top1=0.6))
    right = variant("right", size=3, evidence=replace(SEEN, p50=0.02, p50_high=0.021, top1=0.9))
    every = [right, fast, small, variant("unknown", size=4, evidence=None)]
    assert pick(every, Limits()).variant is small
    assert pick(every, Limits(), by="latency").variant is fast
    assert pick(every, Limits(), by="accuracy").variant is right
    assert "its latency was never measured" in reasons(pick(every, Limits(), by="latency"))["unknown"]
    assert "is slower" in reasons(pick(every, Limits(), by="latency"))["small"]


def test_the_order_that_they_come_in_does_not_matter() -> None:
    every = [variant("b"), variant("a"), variant("c")]
    assert pick(every, Limits()).variant.name == pick(every[::-1], Limits()).variant.name == "a"


def test_none() -> None:
    with pytest.raises(BudgetInfeasible) as caught:
        pick([variant("large", size=41_000_000), variant("elsewhere", target="host")], LIMITS)
    assert "large: its image is 41.0 MB compressed" in str(caught.value)
    assert "elsewhere: it was compiled for host, not for rpi5" in str(caught.value)


def test_no_image_for_the_targets_platform() -> None:
    one = variant("one")
    with pytest.raises(BudgetInfeasible, match="it has no image for linux/arm64"):
        pick([replace(one, platforms=one.platforms[:1])], LIMITS)
