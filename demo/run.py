"""`make demo`: train a small model, compile it for this machine and for a Jetson, serve its image, ask it.

python demo/run.py out/demo
"""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(out: Path) -> None:
    say("1. train a small convolutional net on scikit-learn's handwritten digits")
    run(sys.executable, str(HERE / "digits.py"), str(out))
    for name in ("mlopt.toml", "digits.py"):
        (out / name).write_bytes((HERE / name).read_bytes())
    say("2. compile it for this machine")
    mlopt(out, "compile", "model.pt", "--target", "host", "--out", "bundles")
    say("3. compile it for a Jetson, which is not here: nothing about its speed is claimed")
    mlopt(out, "compile", "model.pt", "--target", "jetson", "--out", "bundles")
    bundle = out / "bundles" / "digits" / "host"
    say("4. run the server that is in the image, and show it a picture of a seven")
    ask(bundle, out / "seven.png")
    print(f"\nThe report: {bundle / 'report.html'}")
    print(f"To try the page in a browser: {Path(sys.executable).parent / 'mlopt'} serve {bundle}")


def ask(bundle: Path, picture: Path) -> None:
    from mlopt.image.run import serve_image

    layout = bundle / "image"
    if not layout.is_dir():
        sys.exit("no image was assembled; see the reason above")
    with serve_image(layout) as served:
        print(
            f"  {served.url} runs in {ENGINES.get(served.engine, served.engine)}, ready in {served.start_seconds:.2f} s"
        )
        with urllib.request.urlopen(f"{served.url}/v2/models/digits") as answer:
            print(f"  GET  /v2/models/digits     {json.dumps(json.load(answer))}")
        request = urllib.request.Request(
            f"{served.url}/v1/classify", data=picture.read_bytes(), headers={"Content-Type": "image/png"}
        )
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        print(f"  POST /v1/classify          {json.dumps(found)[:200]}")
        best = found["classes"][0]
        print(f"  the picture is a {best['name']} ({best['probability']:.1%})")
        if best["name"] != "7":
            sys.exit("the answer is wrong: it is a 7")


ENGINES = {"none": "its own files, unpacked (no container engine runs here)"}


def mlopt(folder: Path, *arguments: str) -> None:
    print(f"  $ mlopt {' '.join(arguments)}", flush=True)
    run(sys.executable, "-m", "mlopt", *arguments, folder=folder)


def run(*command: str, folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with exit code {done.returncode}")


def say(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "out/demo"))
