"""mlopt and its peers on the same models, samples and threads: one command, one table.

    make head-to-head     (or: python benchmarks/head_to_head.py [--models A,B] [--peers A,B] [--only accuracy|latency])

Each peer runs in an environment of its own, made under out/peers/ and kept. What is done is kept under
out/head-to-head/, so that a run may be stopped, narrowed and taken up again: `--again` throws the named models'
(and peers') results away first. Writes reports/published/head-to-head.json, and the .md from it. docs/head-to-head.md
says how to read it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from headtohead.cases import CASES, Case, prepare
from headtohead.collected import collect
from headtohead.judging import judge_answers, judge_speed, openvino_missing, untimed
from headtohead.ours import mlopt_variants
from headtohead.rendered import render
from headtohead.tools import TOOLS, Kept, kept, peer_variants

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = ROOT / "reports" / "published" / "head-to-head.json"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", default=",".join(CASES), help="of %(default)s")
    options.add_argument("--peers", default=",".join(["mlopt", *TOOLS]), help="of %(default)s")
    options.add_argument("--only", choices=("accuracy", "latency", "render"), help="this part alone")
    options.add_argument("--again", action="store_true", help="do not reuse what was kept")
    options.add_argument("--out", type=Path, default=ROOT / "out")
    said = options.parse_args()
    bring_runtimes()
    models, peers = said.models.split(","), said.peers.split(",")
    if unknown := sorted({*models, *peers} - {*CASES, *TOOLS, "mlopt"}):
        sys.exit(f"no model or peer is named {', '.join(unknown)}")
    skipped = {}
    if why := openvino_missing():
        skipped["OpenVINO as a runtime"] = why
    for name in models if said.only != "render" else ():
        print(name, file=sys.stderr)
        if why := one_model(CASES[name], said.out, peers, said.only, again=said.again):
            skipped[name] = why
    for what, why in skipped.items():
        print(f"skipped: {what}: {why}", file=sys.stderr)
    facts = collect(said.out, json.loads(PUBLISHED.read_text()) if PUBLISHED.is_file() else {})
    PUBLISHED.write_text(json.dumps(facts, indent=1) + "\n")
    PUBLISHED.with_suffix(".md").write_text(render(facts))


def bring_runtimes() -> None:
    """Workers are processes of their own, and find the runtimes of this folder as they find any plug-in's."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    runners = str(Path(__file__).with_name("runners"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [runners, os.environ.get("PYTHONPATH")]))
    sys.path.insert(0, runners)


def one_model(case: Case, out: Path, peers: list[str], only: str | None, *, again: bool) -> str:
    """Quantise, judge and time one model; why it was skipped, or nothing."""
    home = out / "head-to-head" / case.name
    if why := prepare(case, home):
        return why
    if again and only != "latency":
        for folder in [path for path in home.iterdir() if path.is_dir() and path.name.partition(".")[0] in peers]:
            shutil.rmtree(folder)
    if only != "latency":
        made: list[Kept] = mlopt_variants(case, home) if "mlopt" in peers else []
        for tool in [TOOLS[peer] for peer in peers if peer in TOOLS]:
            made += peer_variants(case, tool, home, out / "peers")
        judge_answers(made, home)
    if only != "accuracy":
        everything = [one for one in (kept(path) for path in sorted(home.iterdir()) if path.is_dir()) if one]
        if only == "latency" or untimed(everything, home):
            judge_speed(everything, home)
    return ""


if __name__ == "__main__":
    main()
