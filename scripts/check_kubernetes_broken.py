"""Broken manifests that the rules of check_kubernetes.py must notice."""

import copy
import re

REMOVE = object()

# A part of the expected error, the object, the path of a field, and its new value. Paths begin at the object. The words `pod` and
# `container` stand for the pod of a workload and for its container, `env NAME` for the value of a variable.
CHANGES = [
    ("does not match its own pods", "Deployment server", "spec template metadata labels app.kubernetes.io/name", "x"),
    ("does not match one workload", "PodDisruptionBudget server", "spec selector matchLabels app.kubernetes.io/name", "x"),
    ("does not count its own pods", "Job generators", "pod topologySpreadConstraints 0 labelSelector matchLabels", {"a": "b"}),
    ("is not the port `http` of its pods", "Service server", "spec ports 0 port", 80),
    ("a probe uses the port `htp`", "Deployment server", "container readinessProbe httpGet port", "htp"),
    ("has no readiness probe", "Deployment haproxy", "container readinessProbe", REMOVE),
    ("/ready is not a sign of life", "Deployment wsproxy", "container livenessProbe httpGet path", "/ready"),
    ("scrapes the port 1,", "Deployment server", "spec template metadata annotations prometheus.io/port", "1"),
    ("no Service has the address", "Deployment server", "env REDIS_URL", "redis://rediss:6379"),
    ("cannot be the control Redis", "Job generators", "env STREAMSTRESS_CONTROL", "redis://redis:6379"),
    ("only a volume or only a mount", "Deployment server", "pod volumes", []),
    ("no ConfigMap has /etc/streamstress/base.cfg", "ConfigMap haproxy", "data base.cfg", REMOVE),
    ("is not documented", "Deployment server", "pod volumes 0 secret secretName", "x"),
    ("/x/jwt_secret is not in a mounted volume", "Deployment server", "env JWT_SECRET_FILE", "/x/jwt_secret"),
    ("does not state how long", "Deployment server", "env DRAIN_SECONDS", REMOVE),
    ("more than the grace period", "Deployment server", "env DRAIN_SECONDS", "40"),
    ("more than the grace period", "Deployment wsproxy", "pod terminationGracePeriodSeconds", 34),
    ("more than the grace period", "Deployment haproxy", "env HAPROXY_HARD_STOP_AFTER", "1h"),
    ("has no preStop", "Deployment server", "container lifecycle", REMOVE),
    ("less than 60 s", "Job generators", "pod terminationGracePeriodSeconds", REMOVE),
    ("a quarter of DRAIN_SECONDS", "Deployment wsproxy", "env DRAIN_DELAY_MS", "10000"),
    ("to notice a drain", "Deployment wsproxy", "env DRAIN_DELAY_MS", "1000"),
    ("is not a headless Service", "Service wsproxy", "spec clusterIP", REMOVE),
    ("64 slots for 101 pods", "HorizontalPodAutoscaler wsproxy", "spec maxReplicas", 100),
    ("minReadySeconds must be longer", "Deployment wsproxy", "spec minReadySeconds", 5),
    ("its target does not exist", "HorizontalPodAutoscaler wsproxy", "spec scaleTargetRef name", "x"),
    ("would reset the number", "Deployment wsproxy", "spec replicas", 3),
    ("must keep two instances", "HorizontalPodAutoscaler wsproxy", "spec minReplicas", 1),
    ("no process has the metric", "HorizontalPodAutoscaler wsproxy", "spec metrics 0 pods metric name", "wsproxy_sockets"),
    ("not below MAX_CONNECTIONS", "HorizontalPodAutoscaler wsproxy", "spec metrics 0 pods target averageValue", "10000"),
    ("all indexes must run", "Job generators", "spec parallelism", 1),
    ("GENERATORS is not the number", "Job generators", "env GENERATORS", "5"),
    ("in the middle of the run", "Job generators", "spec backoffLimitPerIndex", 1),
    ("would end the others", "Job generators", "spec maxFailedIndexes", 0),
    ("would make its generators fail", "Job generators", "env STREAMSTRESS_ALWAYS_EXIT_0", "no"),
    ("is not restricted", "Namespace streamstress", "metadata labels", {}),
    ("runs as root", "Deployment redis", "pod securityContext", {}),
    ("may gain privileges", "Job generators", "container securityContext capabilities", {}),
    ("uses the host", "Job generators", "pod hostNetwork", True),
    ("can write to its image", "Deployment control", "container securityContext readOnlyRootFilesystem", False),
    ("is not allowed in a restricted", "Job generators", "pod volumes 0", {"name": "results", "hostPath": {"path": "/"}}),
    ("is not safe", "Job generators", "pod securityContext sysctls 0 name", "net.core.somaxconn"),
    ("gets variables of Services", "Deployment haproxy", "pod enableServiceLinks", REMOVE),
    ("leaves less than a fifth", "Deployment redis", "container resources limits memory", "3Gi"),
    ("would be throttled", "Deployment server", "container resources limits cpu", "1"),
    ("its selector matches no pod", "NetworkPolicy redis", "spec podSelector matchLabels", {"a": "b"}),
    ("its pods have no port `http`", "NetworkPolicy redis", "spec ingress 0 ports 0 port", "http"),
    ("pods that do not exist", "NetworkPolicy control", "spec ingress 0 from 0 podSelector matchLabels", {"a": "b"}),
    ("connections to redis are not allowed", "NetworkPolicy redis", "spec ingress 0 from", []),
    ("has no fixed version", "Deployment redis", "container image", "redis"),
    ("is not that of version", "Job generators", "container image", "x/streamstress-client:0.0.1"),
]


def find(objects, kind, name):
    """Returns an object by its name, without the hash that Kustomize adds to names of ConfigMaps."""
    for obj in objects:
        if obj["kind"] == kind and re.sub(r"-[0-9a-z]{10}$", "", obj["metadata"]["name"]) == name:
            return obj
    raise KeyError(f"{kind} {name}")


def change(obj, path, value):
    """Sets or removes the field at a path."""
    keys = path.replace("container ", "pod containers 0 ").replace("pod ", "spec template spec ", 1).split()
    if keys[0] == "env":
        variables = obj["spec"]["template"]["spec"]["containers"][0]["env"]
        entry = next(entry for entry in variables if entry["name"] == keys[1])
        obj, keys = (variables, [variables.index(entry)]) if value is REMOVE else (entry, ["value"])
    for key in keys[:-1]:
        obj = obj[int(key)] if isinstance(obj, list) else obj[key]
    last = int(keys[-1]) if isinstance(obj, list) else keys[-1]
    if value is REMOVE:
        del obj[last]
    else:
        obj[last] = value


def broken(objects):
    """Yields for each change the expected error, the name of the change, and the objects with it."""
    for expected, target, path, value in CHANGES:
        copied = copy.deepcopy(objects)
        change(find(copied, *target.split()), path, value)
        yield expected, f"{target}: {path}", copied
