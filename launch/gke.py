"""Runs `avemo train …` (or `finetune`) on TPU node pools of a GKE cluster, as a JobSet.

    avemo launch gke --name base --topology v5e:4x4 --image REGISTRY/avemo:1 --pvc data:/data \\
        -- train --config hicmae:base --workdir /data/runs/base --config.data.path=/data/clips

Writes the manifest and hands it to `kubectl apply`; `--dry_run` prints both and does neither. Each slice is a Job
with a pod for every host, which runs one supervisor; pods find the first one by the JobSet's own DNS names. When a
pod was preempted after saving (143) or lost its peers (75), all pods are made anew, as often as it happens; other
failures count as `--pod_restarts`, on top of the restarts that the supervisors do in place. The cluster needs the
JobSet controller; the image avemo_jax with its extra `tpu`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from . import flags, tpus
from .manifests import to_yaml
from .supervisor import HOST_LOST, PREEMPTED

_JOB = "slice"
_PORT = 7700  # pods have addresses of their own
_SAVING_S = 30  # beyond the grace: to say so and leave


def main(argv: Sequence[str]) -> int:
    """Applies the manifest; returns 0, or the exit code of kubectl."""
    args = read_flags(argv)
    manifest = to_yaml(manifest_of(args))
    command = ["kubectl", "apply", "--filename", "-", *_where(args)]
    if args.dry_run:
        print(f"{manifest}# {shlex.join(command)}")
        flags.say_platform(args)
        return 0
    if not shutil.which("kubectl"):
        print(
            "avemo launch gke: error: no kubectl here: install it, or pass on what --dry_run prints",
            file=sys.stderr,
        )
        return 2
    done = subprocess.run(command, input=manifest, text=True)
    if done.returncode:
        print("avemo launch gke: error: kubectl did not take the manifest (see above)", file=sys.stderr)
        return done.returncode
    where = " ".join(["", *_where(args)])
    first = f"jobset.sigs.k8s.io/jobset-name={args.name},batch.kubernetes.io/job-completion-index=0"
    print(f"logs:   kubectl logs --follow --selector {first}{where}")
    print(f"state:  kubectl describe jobset {args.name}{where}")
    print(f"delete: kubectl delete jobset {args.name}{where}")
    return 0


def manifest_of(args: argparse.Namespace) -> dict[str, Any]:
    """The JobSet."""
    annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    labels = {"kueue.x-k8s.io/queue-name": args.queue} if args.queue else {}
    saved = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [HOST_LOST, int(PREEMPTED)]}}
    disrupted = {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    job = {
        "parallelism": args.slice.hosts,
        "completions": args.slice.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [saved, disrupted]},
        "template": {"spec": _pod(args)},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {
            "name": args.name,
            **({"namespace": args.namespace} if args.namespace else {}),
            "annotations": annotations,
            **({"labels": labels} if labels else {}),
        },
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": args.name},
            "failurePolicy": {
                "maxRestarts": args.pod_restarts,
                "rules": [
                    {
                        "name": "saved-or-host-lost",
                        "action": "RestartJobSetAndIgnoreMaxRestarts",
                        "onJobFailureReasons": ["PodFailurePolicy"],
                    }
                ],
            },
            "replicatedJobs": [{"name": _JOB, "replicas": args.slices, "template": {"spec": job}}],
        },
    }


def _pod(args: argparse.Namespace) -> dict[str, Any]:
    selector = {
        "cloud.google.com/gke-tpu-accelerator": args.slice.kind.gke,
        "cloud.google.com/gke-tpu-topology": args.slice.topology,
    }
    if args.spot:
        selector["cloud.google.com/gke-spot"] = "true"
    volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": claim}} for claim, _ in args.pvc]
    mounts = [{"name": claim, "mountPath": path} for claim, path in args.pvc]
    chips = {"google.com/tpu": args.slice.chips_per_host}
    field = lambda path: {"valueFrom": {"fieldRef": {"fieldPath": path}}}  # noqa: E731
    container = {
        "name": "avemo",
        "image": args.image,
        "command": ["bash", "-c", _script(args)],
        "ports": [{"containerPort": _PORT}],
        "env": [
            {"name": "JOB_INDEX", **field("metadata.annotations['jobset.sigs.k8s.io/job-index']")},
            {"name": "ATTEMPT", **field("metadata.labels['jobset.sigs.k8s.io/restart-attempt']")},
            *({"name": name, "value": value} for name, value in args.env),
        ],
        "resources": {"requests": chips, "limits": chips},
        **({"volumeMounts": mounts} if mounts else {}),
    }
    return {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": int(args.grace_s) + _SAVING_S,
        "nodeSelector": selector,
        **({"serviceAccountName": args.service_account} if args.service_account else {}),
        **({"tolerations": [_SPOT]} if args.spot else {}),
        "containers": [container],
        **({"volumes": volumes} if volumes else {}),
    }


_SPOT = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}


def _script(args: argparse.Namespace) -> str:
    """What a pod runs. `exec`: the supervisor is the process that Kubernetes tells to end."""
    hosts = args.slice.hosts
    command = [args.python, "-m", "avemo_jax", "launch", "host", "--hosts", str(args.slices * hosts)]
    own = f'--host $((JOB_INDEX * {hosts} + JOB_COMPLETION_INDEX)) --name "$HOSTNAME" --run "{args.name}-$ATTEMPT"'
    lead = f"--lead {args.name}-{_JOB}-0-0.{args.name}:{_PORT}"
    rest = [*flags.rules_as_words(args), "--", *args.verb]
    return "\n".join(
        ["set -e", *args.setup, f"exec {shlex.join(command)} {own} {lead} {shlex.join(rest)}", ""]
    )


def read_flags(argv: Sequence[str]) -> argparse.Namespace:
    """The launcher's own flags, and the command behind `--`."""
    parser = flags.parser("gke", __doc__)
    parser.add_argument("--name", default="avemo", help="of the JobSet (%(default)s)")
    parser.add_argument("--topology", required=True, help="of one slice, as v5e:4x4")
    parser.add_argument("--slices", type=int, default=1, help="how many (%(default)d)")
    parser.add_argument("--image", required=True, help="a container image that holds avemo_jax")
    parser.add_argument("--python", default="python", help="of the image (%(default)s)")
    parser.add_argument("--namespace", default="", help="as in kubectl, like --context")
    parser.add_argument("--context", default="")
    parser.add_argument("--queue", default="", help="a Kueue queue to wait in")
    parser.add_argument("--service_account", default="", help="for buckets, by Workload Identity")
    parser.add_argument("--spot", action="store_true", help="on spot nodes")
    parser.add_argument(
        "--pvc", action="append", default=[], metavar="CLAIM:/PATH", help="a volume to mount; repeatable"
    )
    parser.add_argument(
        "--env", action="append", default=[], metavar="NAME=VALUE", help="for the processes; repeatable"
    )
    parser.add_argument(
        "--setup", action="append", default=[], metavar="LINE", help="a shell line to run first; repeatable"
    )
    parser.add_argument("--pod_restarts", type=int, default=3, help="after failures (%(default)d)")
    flags.add_platform(parser)
    flags.add_rules(parser, restarts=3, stall_s=1800)
    args = flags.read(parser, argv)
    try:
        args.slice = tpus.parse(args.topology)
    except ValueError as error:
        parser.error(f"--topology {error}")
    flags.expect_tpu(args)
    if args.slices < 1:
        parser.error("--slices is at least 1")
    # Pods are named NAME-slice-N-N-XXXXX, which has to stay a DNS label.
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", args.name) or len(args.name) > 40:
        parser.error(f"--name {args.name}: small letters, digits and dashes, at most 40, a letter first")
    args.pvc = [_pair(parser, "--pvc", text, ":/") for text in args.pvc]
    args.pvc = [(claim, f"/{path}") for claim, path in args.pvc]
    args.env = [_pair(parser, "--env", text, "=") for text in args.env]
    return args


def _pair(parser: argparse.ArgumentParser, flag: str, text: str, between: str) -> tuple[str, str]:
    first, found, second = text.partition(between)
    if not first or not found:
        parser.error(f"{flag} {text}: it has no '{between}'")
    return first, second


def _where(args: argparse.Namespace) -> list[str]:
    given = {"--namespace": args.namespace, "--context": args.context}
    return [word for flag, value in given.items() if value for word in (flag, value)]
