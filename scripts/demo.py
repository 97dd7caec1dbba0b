"""The main job end to end: data, reference, plan, family, measurement, serving, three requests, a table.

Runs the commands that a user would type and prints each before it starts. The commands skip what is already
done, so running it again takes a minute, nearly all of it vLLM's start.
"""

import argparse
import hashlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI, UnprocessableEntityError

from mopo_eval.engine import open_engine
from mopo_eval.profiles import read_profiles
from mopo_eval.scorecards import Estimate, read_scorecards
from mopo_train.console import print_table
from mopo_train.errors import MopoError
from mopo_train.family import PolicyFamily, read_family, write_whole

POLICIES = 7
BIN = Path(sys.executable).parent


def main() -> None:
    """Take the path on the sandbox, or on the user's own data and model."""
    options = parse()
    started = time.monotonic()
    root = options.out / "family"
    try:
        family = make_family(options)
        with open_engine("auto", root, family, log=options.out / "engine.log") as engine:
            measure(options, root, engine.url)
            with served(root, engine.url) as url:
                ask(url, root, family, first_prompts(options.prompts))
        scored = show_scores(options, root, family)
    except (subprocess.CalledProcessError, MopoError) as error:
        sys.exit(f"demo: {error}")
    print(f"\nDone in {time.monotonic() - started:.0f} s. Where to look next:")
    for purpose, place in places(options.out, root, family, scored=scored):
        print(f"  {purpose}\n    {place}")


def places(out: Path, root: Path, family: PolicyFamily, *, scored: bool) -> list[tuple[str, str]]:
    """Where to look next: purpose, and command or file. The gateway's address is its default."""
    audit = f"--audit {out / 'audit.db'}"
    found = [
        ("the endpoint, for any OpenAI client", f"{BIN_SHOWN}mopo-serve run {root} {audit}"),
        (
            "the dashboard: floors, answers and profiles; beside the endpoint also the playground and the monitor",
            f"{BIN_SHOWN}mopo-dashboard {root} --gateway http://127.0.0.1:8000 {audit}",
        ),
        ("the front that was predicted before training", f"{out / 'plan' / 'plan.html'}"),
    ]
    if scored:
        floor = f"{family.objectives[-1]}=0.6"
        found.append(("which policy a floor gets, and why", f"{BIN_SHOWN}mopo-serve resolve {root} --floor {floor}"))
    return found


BIN_SHOWN = f"{BIN.relative_to(Path.cwd())}/" if BIN.is_relative_to(Path.cwd()) else ""


def parse() -> argparse.Namespace:
    """Read the command line; ``make demo`` passes its variables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="preference data of your own; needs --model")
    parser.add_argument("--model", help="directory or hub name of the model to start from, or 'scratch'")
    parser.add_argument("--primary", default="helpfulness", help="objective to raise")
    parser.add_argument("--prompts", type=Path, help="held-out prompts; default: a tenth of the data's prompts")
    parser.add_argument("--judges", type=Path, help="YAML file of judges; without it answers are not scored")
    parser.add_argument("--out", type=Path, help="default: runs/demo, or runs/own with --data")
    options = parser.parse_args()
    if options.data and not options.model:
        parser.error("--data needs --model (a directory, a hub name, or 'scratch')")
    options.out = options.out or Path("runs", "own" if options.data else "demo")
    return options


def make_family(options: argparse.Namespace) -> PolicyFamily:
    """Data, reference, plan and policies; fills in where data, prompts and judges are."""
    check_same_job(options)
    data = options.out / "data"
    if options.data:
        if not options.prompts:
            mopo("mopo-train", "split", options.data, "--out", data, done=data / "prompts.jsonl")
            options.data, options.prompts = data / "train.jsonl", data / "prompts.jsonl"
    else:
        mopo("mopo-train", "sandbox", "--out", data)
        options.data, options.model = data / "preferences.jsonl", data / "base"
        options.prompts, options.judges = data / "prompts.jsonl", data / "judges.yaml"
    reference, root = options.out / "reference", options.out / "family"
    mopo(
        *("mopo-train", "reference", options.data, "--model", options.model, "--out", reference),
        done=reference / "config.json",
    )
    plan = options.out / "plan"
    mopo(
        *("mopo-train", "plan", options.data, "--out", plan),
        *("--primary", options.primary, "--policies", POLICIES),
        done=plan / "plan.json",
    )
    mopo(
        *("mopo-train", "run", options.data, "--model", reference, "--out", root),
        *("--primary", options.primary, "--policies", POLICIES),
        done=root / "family.json",
    )
    return read_family(root)


def check_same_job(options: argparse.Namespace) -> None:
    """Refuse to continue in a directory that holds the results of other data, another model or primary."""
    asked = {"data": options.data, "model": options.model, "primary": options.primary}
    if options.data and (path := Path(options.data)).is_file():
        asked["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    record = options.out / "demo.json"
    if record.exists() and (made := json.loads(record.read_text(encoding="utf-8"))) != asked:
        differing = ", ".join(name for name in asked if asked[name] != made.get(name))
        raise MopoError(
            f"'{options.out}' holds the results of another job ({differing} differ); give another with OUT="
        )
    write_whole(record, json.dumps(asked) + "\n")


def measure(options: argparse.Namespace, root: Path, engine: str) -> None:
    """Generate and judge every policy's answers to the held-out prompts."""
    judges = ("--judges", options.judges) if options.judges else ("--answers-only",)
    mopo("mopo-eval", "run", root, "--engine", engine, "--prompts", options.prompts, *judges)


def mopo(*command: object, done: Path | None = None) -> None:
    """Run a command as a user would; ``done`` exists when it need not run again."""
    words = [str(word) for word in command]
    print(f"\n$ {shlex.join(words)}", flush=True)
    if done and done.exists():
        print(f"already done: {done}", flush=True)
        return
    subprocess.run([BIN / words[0], *words[1:]], check=True, env=os.environ | {"PYTHONUNBUFFERED": "1"})


@contextmanager
def served(root: Path, engine: str) -> Iterator[str]:
    """Run the gateway in front of ``engine`` while the block runs; gives its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mopo-serve", "run", str(root), "--engine", engine, "--port", str(port)]
    command += [
        "--audit",
        str(root.parent / "audit.db"),
        "--keys",
        str(root.parent / "keys.json"),
    ]  # not the user's own
    print(f"\n$ {shlex.join(command)}", flush=True)
    gateway = subprocess.Popen([BIN / command[0], *command[1:]])
    try:
        wait_until_ready(gateway, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        gateway.send_signal(signal.SIGTERM)
        gateway.wait(timeout=30)


def wait_until_ready(gateway: "subprocess.Popen[bytes]", url: str) -> None:
    """Return when the gateway answers; raise MopoError if it stops or does not within a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and gateway.poll() is None:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise MopoError("the gateway did not become ready; its messages above say why")


def first_prompts(path: Path) -> list[dict[str, Any]]:
    """One prompt per category, in the file's order."""
    prompts: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompts.setdefault(row.get("category", ""), row)
    return list(prompts.values())


def ask(url: str, root: Path, family: PolicyFamily, prompts: list[dict[str, Any]]) -> None:
    """Three requests with the stock OpenAI client, under three profiles: who answered, and why."""
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    models = [f"mopo/{name}" for name in profile_names(root, family)] or [
        f"mopo/policy/{p.id}" for p in family.policies
    ]
    prompt = next((row for row in prompts if row.get("category") == "risky"), prompts[0])["prompt"]
    messages: Any = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    print(f"\nThree requests through the 'openai' package at {url}/v1\n  question: {messages[-1]['content']}")
    for model in models[:3]:
        print(f'\n  model="{model}"')
        try:
            raw = client.chat.completions.with_raw_response.create(
                model=model, messages=messages, max_tokens=64, temperature=0
            )
        except UnprocessableEntityError as error:
            print(f"    not served: {error.message}")
            continue
        print(f"    answered by {raw.headers['x-mopo-policy']}{why(url, model)}")
        print(f"    {raw.parse().choices[0].message.content}")


def profile_names(root: Path, family: PolicyFamily) -> list[str]:
    """Profiles of the family; none where nothing was scored."""
    path = root / "profiles.yaml"
    return (
        list(read_profiles(path, family.objectives, [p.id for p in family.policies]).profiles) if path.exists() else []
    )


def why(url: str, model: str) -> str:
    """Why a profile's policy was chosen, in the gateway's words."""
    if model.startswith("mopo/policy/"):
        return ", as asked"
    found = httpx.post(f"{url}/v1/profiles/resolve", json={"profile": model.removeprefix("mopo/")}).json()
    floors = ", ".join(f"{name} >= {floor:g}" for name, floor in found["floors"].items())
    return f" (floors: {floors or 'none'}): {found['reason']}"


def show_scores(options: argparse.Namespace, root: Path, family: PolicyFamily) -> bool:
    """A table of the measured scores and, on the sandbox, the best that the true front allows; False without scores."""
    cards = read_scorecards(root, family)
    if not cards:
        print("\nNo judge was given (JUDGES=judges.yaml), so there are answers but no scores.")
        return False
    true_front = options.out / "data" / "front.json"
    points = json.loads(true_front.read_text(encoding="utf-8"))["points"] if true_front.exists() else []
    rows = []
    for name, card in cards.items():
        cells = [cell(card.objectives[o]) if o in card.objectives else "-" for o in family.objectives]
        if points:
            cells.append(true_best(points, {o: score.mean for o, score in card.objectives.items()}, family.primary))
        rows.append([name, *cells])
    columns = ["policy", *family.objectives] + ([f"true front: best {family.primary}"] if points else [])
    print()
    print_table(columns, rows, title="Judge scores on held-out prompts: mean [95 % interval] certified lower bound")
    if points:
        print("True front: the greatest exact score on the primary among its points that are at least as good as the")
        print("policy's mean on every other objective ('beyond' where the policy measured above all of them).")
    return True


def cell(score: Estimate) -> str:
    """One estimate, in the table's words."""
    return f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}] {score.certified_low:.3f}"


def true_best(points: list[dict[str, Any]], scores: dict[str, float], primary: str) -> str:
    """The greatest exact ``primary`` score on the true front that keeps the policy's other scores."""
    others = {name: score for name, score in scores.items() if name != primary}
    kept = [p["scores"][primary] for p in points if all(p["scores"][o] >= value for o, value in others.items())]
    return f"{max(kept):.3f}" if kept else "beyond"


if __name__ == "__main__":
    main()
