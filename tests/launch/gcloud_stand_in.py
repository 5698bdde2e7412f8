"""Stands in for `gcloud compute tpus` in tests: refuses what the real one refuses, notes every call, and acts it out
on this machine: a queued resource is a file, a worker is a home folder, ssh is a shell in it.

Which flags there are was recorded from `gcloud compute tpus … --help` of the Google Cloud SDK 528.0.0.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(os.environ["GCLOUD_STAND_IN"])
WIDE = {"--zone": 1, "--project": 1, "--format": 1, "--quiet": 0}
SSH = {"--worker": 1, "--internal-ip": 0, "--ssh-flag": 1, "--ssh-key-file": 1, "--plain": 0, "--dry-run": 0}
FLAGS: dict[tuple[str, str], dict[str, int]] = {  # flag → values that it takes
    ("queued-resources", "create"): {
        "--runtime-version": 1, "--accelerator-type": 1, "--topology": 1, "--type": 1, "--node-id": 1,
        "--node-count": 1, "--node-prefix": 1, "--async": 0, "--data-disk": 1, "--description": 1, "--guaranteed": 0,
        "--internal-ips": 0, "--labels": 1, "--metadata": 1, "--network": 1, "--range": 1, "--reserved": 0,
        "--scopes": 1, "--service-account": 1, "--spot": 0, "--subnetwork": 1, "--tags": 1,
        "--valid-after-duration": 1, "--valid-after-time": 1, "--valid-until-duration": 1, "--valid-until-time": 1,
    },
    ("queued-resources", "describe"): {},
    ("queued-resources", "delete"): {"--async": 0, "--force": 0},
    ("tpu-vm", "describe"): {},
    ("tpu-vm", "ssh"): {**SSH, "--command": 1, "--output-directory": 1},
    ("tpu-vm", "scp"): {**SSH, "--recurse": 0, "--compress": 0},
}  # fmt: skip


def main(argv: list[str]) -> int:
    if argv[:2] != ["compute", "tpus"] or tuple(argv[2:4]) not in FLAGS:
        return refuse(f"Invalid choice: {argv[:4]}")
    action = (argv[2], argv[3])
    known, given, names = {**WIDE, **FLAGS[action]}, {}, []
    words = iter(argv[4:])
    for word in words:
        if not word.startswith("--"):
            names.append(word)
            continue
        flag, equals, value = word.partition("=")
        if flag not in known:
            return refuse(f"unrecognized arguments: {flag}")
        given[flag] = (value if equals else next(words, None)) if known[flag] else ""
        if given[flag] is None:
            return refuse(f"argument {flag}: expected one argument")
    with (HERE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([*action, names, given]) + "\n")
    if "--zone" not in given:
        return refuse("The [zone] resource is not properly specified.")
    return {"queued-resources": resources, "tpu-vm": machines}[action[0]](action[1], names, given)


def resources(verb: str, names: list[str], given: dict[str, str]) -> int:
    (name,) = names
    state = HERE / f"{name}.states"  # one a line; each question moves on to the next, the last one stays
    if verb == "create":
        if "--runtime-version" not in given or ("--accelerator-type" in given) == ("--type" in given):
            return refuse(
                "argument --runtime-version and one of --accelerator-type, --type: Must be specified."
            )
        if ("--node-id" in given) == ("--node-count" in given) or int(given.get("--node-count", 2)) < 2:
            return refuse(
                "Exactly one of (--node-id | --node-count) must be specified; --node-count above 1."
            )
        if state.exists():
            return fail("ALREADY_EXISTS")
        plans = HERE / "plans"
        mine, *rest = plans.read_text().splitlines()
        plans.write_text("\n".join(rest) + "\n")
        state.write_text(mine.replace(" ", "\n") + "\n")
        return 0
    if not state.exists():
        return fail(f"NOT_FOUND: Resource '{name}' was not found")
    states = state.read_text().split()
    if verb == "describe":
        print(states[0])
        state.write_text("\n".join(states[1:] or states) + "\n")
    elif states[0] == "ACTIVE" and "--force" not in given:
        return fail("FAILED_PRECONDITION: use --force")
    elif "--quiet" not in given:
        return fail("This command asks, and nobody answers")
    else:
        state.unlink()
        for home in HERE.glob(f"{name}*.home"):
            shutil.rmtree(home)
    return 0


def machines(verb: str, names: list[str], given: dict[str, str]) -> int:
    node = names[-1].partition(":")[0]
    count = int(os.environ["GCLOUD_STAND_IN_WORKERS"])
    if verb == "describe":
        print(";".join(["127.0.0.1"] * count))
        return 0
    if (HERE / "silent").exists():
        return fail("Could not SSH into the instance")
    workers = range(count) if given.get("--worker") == "all" else [int(given.get("--worker", 0))]
    codes = []
    for worker in workers:
        home = HERE / f"{node}.{worker}.home"
        home.mkdir(exist_ok=True)
        if verb == "scp":
            shutil.copy(names[0], home / names[1].partition(":")[2].removeprefix("~/"))
            continue
        # The metadata server, which a worker asks by curl for its number.
        (home / "bin").mkdir(exist_ok=True)
        (home / "bin" / "curl").write_text(f"#!/bin/sh\necho {worker}\n")
        (home / "bin" / "curl").chmod(0o755)
        environment = {**os.environ, "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
        codes.append(subprocess.run(["bash", "-c", given["--command"]], env=environment, cwd=home).returncode)
    return max(codes, default=0)


def refuse(why: str) -> int:
    print(f"ERROR: (gcloud) {why}", file=sys.stderr)
    return 2


def fail(why: str) -> int:
    print(f"ERROR: (gcloud) {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
