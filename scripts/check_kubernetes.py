#!/usr/bin/env python3
"""Checks rendered Kubernetes manifests by rules that concern several fields or objects. Schemas do not have such rules.

usage: check_kubernetes.py STACK.yaml... GENERATORS.yaml

Checks each stack together with the generators. Then it breaks copies of the last stack (check_kubernetes_broken.py), and fails if a rule
does not notice. Exit code 0: no error. 1: there are errors; they are printed, one per line.
"""

import re
import sys
from pathlib import Path

import yaml
from check_kubernetes_broken import broken

ROOT = Path(__file__).resolve().parent.parent
# Secrets that are made by hand, and never committed.
SECRETS = {"jwt"}
# Seconds that a server takes after DRAIN_SECONDS at most: for its last events, and to leave the bus.
SERVER_ENDS = 7
# Seconds for which a cluster's DNS may answer without a new pod.
DNS_CACHE = 30
SAFE_SYSCTLS = {"net.ipv4.ip_local_port_range"}
RESTRICTED_VOLUMES = {"configMap", "secret", "emptyDir", "projected", "downwardAPI", "persistentVolumeClaim"}
# What the program can put into a template of generators.
PLACEHOLDERS = {"job", "generators", "generators-text", "image", "plan", "run-id"}


class Stack:
    """The objects of one stack, by what the rules look for."""

    def __init__(self, objects):
        self.objects = objects
        self.errors = []

    def kind(self, *kinds):
        return [obj for obj in self.objects if obj["kind"] in kinds]

    def workloads(self):
        return self.kind("Deployment", "Job")

    def named(self, kind, name):
        return next((obj for obj in self.kind(kind) if obj["metadata"]["name"] == name), None)

    def selected(self, selector):
        """Returns the workloads whose pods a selector matches."""
        return [load for load in self.workloads() if matches(selector, labels(load))]

    def error(self, obj, text):
        self.errors.append(f"{obj['kind']} {obj['metadata']['name']}: {text}")


def pod(load):
    return load["spec"]["template"]["spec"]


def labels(load):
    return load["spec"]["template"]["metadata"]["labels"]


def container(load):
    return pod(load)["containers"][0]


def environment(load):
    return {entry["name"]: entry.get("value") for entry in container(load).get("env", [])}


def ports(load):
    return {port["name"]: port["containerPort"] for port in container(load).get("ports", [])}


def matches(selector, found):
    """Returns whether a label selector matches. An empty one matches everything."""
    for key, value in selector.get("matchLabels", {}).items():
        if found.get(key) != value:
            return False
    for rule in selector.get("matchExpressions", []):
        assert rule["operator"] == "In", rule
        if found.get(rule["key"]) not in rule["values"]:
            return False
    return True


def seconds(text):
    """Reads `1h30m`, `40s`, `250ms` or a number of seconds."""
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "": 1}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s|)", str(text))
    return sum(float(number) * units[unit] for number, unit in parts)


def bytes_of(text):
    number, unit = re.fullmatch(r"(\d+)(\w*)", str(text)).groups()
    sizes = {"": 1, "mb": 2**20, "gb": 2**30, "mi": 2**20, "gi": 2**30}
    return int(number) * sizes[unit.lower()]


def configuration(stack, load, file):
    """Returns the text of a file that a workload mounts from a ConfigMap, or an empty text."""
    for volume in pod(load).get("volumes", []):
        config = stack.named("ConfigMap", volume.get("configMap", {}).get("name"))
        if config and file in config["data"]:
            return config["data"][file]
    return ""


def check_selectors(stack):
    for load in stack.kind("Deployment"):
        if not matches(load["spec"]["selector"], labels(load)):
            stack.error(load, "its selector does not match its own pods")
        if len(stack.selected(load["spec"]["selector"])) != 1:
            stack.error(load, "its selector does not match its own pods alone")
    for budget in stack.kind("PodDisruptionBudget"):
        if len(stack.selected(budget["spec"]["selector"])) != 1:
            stack.error(budget, "its selector does not match one workload")
    for load in stack.workloads():
        for spread in pod(load).get("topologySpreadConstraints", []):
            if not matches(spread["labelSelector"], labels(load)):
                stack.error(load, "its topology spread does not count its own pods")


def check_services(stack):
    for service in stack.kind("Service"):
        loads = stack.selected({"matchLabels": service["spec"]["selector"]})
        if len(loads) != 1:
            stack.error(service, "its selector does not match one workload")
        for load in loads:
            for port in service["spec"]["ports"]:
                if ports(load).get(port["targetPort"]) != port["port"]:
                    stack.error(service, f"its port {port['port']} is not the port `{port['targetPort']}` of its pods")


def check_probes(stack):
    for load in stack.kind("Deployment"):
        one = container(load)
        probes = [one.get("readinessProbe"), one.get("livenessProbe")]
        for probe in filter(None, probes):
            handler = probe.get("httpGet") or probe.get("tcpSocket") or {"port": next(iter(ports(load)))}
            if handler["port"] not in ports(load):
                stack.error(load, f"a probe uses the port `{handler['port']}`, which the container does not have")
        if not probes[0]:
            stack.error(load, "has no readiness probe")
        liveness = (probes[1] or {}).get("httpGet", {})
        if liveness.get("path") == "/ready":
            stack.error(load, "would be restarted while it drains or has no Redis: /ready is not a sign of life")
        scraped = load["spec"]["template"]["metadata"].get("annotations", {}).get("prometheus.io/port")
        if scraped and int(scraped) not in ports(load).values():
            stack.error(load, f"Prometheus scrapes the port {scraped}, which the container does not have")


def check_addresses(stack):
    """Checks that each address of the cluster in an environment variable is a port of a Service."""
    for load in stack.workloads():
        for name, value in environment(load).items():
            found = re.fullmatch(r"(?:redis|http|ws)://([a-z0-9-]+):(\d+)", value or "")
            if not found:
                continue
            service = stack.named("Service", found[1])
            if not service or int(found[2]) not in [port["port"] for port in service["spec"]["ports"]]:
                stack.error(load, f"no Service has the address {value} of {name}")
    for load in stack.kind("Job"):
        values = environment(load)
        if values.get("STREAMSTRESS_CONTROL") == "redis://redis:6379":
            stack.error(load, "the Redis of the bus cannot be the control Redis")


def check_volumes(stack):
    for load in stack.workloads():
        volumes = {volume["name"]: volume for volume in pod(load).get("volumes", [])}
        mounts = {mount["name"]: mount["mountPath"] for mount in container(load).get("volumeMounts", [])}
        for name in set(mounts) ^ set(volumes):
            stack.error(load, f"`{name}` is only a volume or only a mount")
        files = [word for word in container(load).get("command", []) if word.startswith("/etc/")]
        files += [value for name, value in environment(load).items() if name.endswith("_FILE")]
        for name, volume in volumes.items():
            if "configMap" in volume:
                config = stack.named("ConfigMap", volume["configMap"]["name"]) or {"data": {}}
                known = [f"{mounts.get(name)}/{key}" for key in config["data"]]
                for file in [file for file in files if file.startswith("/etc/") and file not in known]:
                    stack.error(load, f"no ConfigMap has {file}")
            if "secret" in volume and volume["secret"]["secretName"] not in SECRETS:
                stack.error(load, f"the Secret `{volume['secret']['secretName']}` is not documented")
        for file in files:
            if not any(file.startswith(path + "/") for path in mounts.values()):
                stack.error(load, f"{file} is not in a mounted volume")


def drain(load):
    """Returns the longest time from SIGTERM to the end of a process, in seconds. `None` if it ends at once."""
    values = environment(load)
    if "HAPROXY_HARD_STOP_AFTER" in values:
        return seconds(values["HAPROXY_HARD_STOP_AFTER"])
    if "DRAIN_SECONDS" in values:
        return seconds(values["DRAIN_SECONDS"]) + (SERVER_ENDS if load["metadata"]["name"] == "server" else 0)
    return None


def check_drains(stack):
    for load in stack.kind("Deployment"):
        ends = drain(load)
        if load["metadata"]["name"] in ("server", "wsproxy", "haproxy") and ends is None:
            stack.error(load, "does not state how long it drains")
        if ends is None:
            continue
        before = container(load).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if not before:
            stack.error(load, "has no preStop, so it would drain before it has left its Service")
        grace = pod(load)["terminationGracePeriodSeconds"]
        if before + ends > grace:
            stack.error(load, f"preStop and drain take {before + ends:g} s, more than the grace period of {grace} s")
    for load in stack.kind("Job"):
        if pod(load).get("terminationGracePeriodSeconds", 30) < 60:
            stack.error(load, "has less than 60 s to end its streams and deliver its results")


def check_haproxy(stack):
    """Checks that HAProxy notices a drain before sockets are closed, and has a slot for each pod."""
    haproxy, gateway = stack.named("Deployment", "haproxy"), stack.named("Deployment", "wsproxy")
    defaults = configuration(stack, haproxy, "base.cfg")
    checks = re.search(r"defaults toward-gateways.*?inter (\S+) fastinter (\S+).*?fall (\d+)", defaults, re.S)
    values = environment(gateway)
    whole, delay, window = (seconds(values[name]) for name in ("DRAIN_SECONDS", "DRAIN_DELAY_MS", "DRAIN_WINDOW_SECONDS"))
    delay /= 1000
    if delay > whole / 4 or window > whole / 2:
        stack.error(gateway, "DRAIN_DELAY_MS is more than a quarter of DRAIN_SECONDS, or DRAIN_WINDOW_SECONDS more than a half")
    if not checks:
        stack.error(haproxy, "base.cfg does not state how gateways are checked")
        return
    noticed = seconds(checks[1]) + (int(checks[3]) - 1) * seconds(checks[2])
    if noticed >= delay:
        stack.error(gateway, f"HAProxy needs {noticed:g} s to notice a drain, more than DRAIN_DELAY_MS")
    backends = configuration(stack, haproxy, "backends-kubernetes.cfg")
    for name, slots, service, port in re.findall(r'server-template (\w+) 1-(\d+) "(\w+)\.[^"]*:(\d+)"', backends):
        load, found = stack.named("Deployment", name), stack.named("Service", service)
        if not found or found["spec"].get("clusterIP") != "None" or found["spec"]["ports"][0]["port"] != int(port):
            stack.error(haproxy, f"{service}:{port} is not a headless Service")
        scaler = stack.named("HorizontalPodAutoscaler", name)
        most = scaler["spec"]["maxReplicas"] if scaler else load["spec"]["replicas"]
        surge = load["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        if most + surge > int(slots):
            stack.error(haproxy, f"has {slots} slots for {most + surge} pods of {name}")
        if load["spec"].get("minReadySeconds", 0) <= DNS_CACHE:
            stack.error(load, f"HAProxy finds new pods after up to {DNS_CACHE} s: minReadySeconds must be longer")
    if backends.count("server-template") != 2:
        stack.error(haproxy, "backends-kubernetes.cfg does not have two backends")


def check_autoscaling(stack):
    for scaler in stack.kind("HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        load = stack.named(target["kind"], target["name"])
        if not load or load["apiVersion"] != target["apiVersion"]:
            stack.error(scaler, "its target does not exist")
        elif "replicas" in load["spec"]:
            stack.error(load, "`replicas` would reset the number that the autoscaler chose")
        if scaler["spec"]["minReplicas"] < 2:
            stack.error(scaler, "must keep two instances")
        for metric in scaler["spec"]["metrics"]:
            name = metric["pods"]["metric"]["name"]
            source = (ROOT / "wsproxy/src/metrics.rs").read_text()
            prefix, _, rest = name.partition("_")
            if prefix != "wsproxy" or f' = "{rest}", "' not in source:
                stack.error(scaler, f"no process has the metric {name}")
            most = int(environment(load or stack.kind("Deployment")[0]).get("MAX_CONNECTIONS", 0))
            if int(metric["pods"]["target"]["averageValue"]) >= most:
                stack.error(scaler, "its target is not below MAX_CONNECTIONS")


def check_job(stack):
    for job in stack.kind("Job"):
        spec, count = job["spec"], job["spec"]["completions"]
        if spec["completionMode"] != "Indexed" or spec["parallelism"] != count:
            stack.error(job, "all indexes must run at the same time")
        if environment(job).get("GENERATORS") != str(count):
            stack.error(job, f"GENERATORS is not the number of completions, {count}")
        if spec["backoffLimitPerIndex"] != 0 or pod(job)["restartPolicy"] != "Never":
            stack.error(job, "a second generator would begin in the middle of the run")
        if "podFailurePolicy" in spec or "maxFailedIndexes" in spec:
            stack.error(job, "a lost generator would end the others")
        if environment(job).get("STREAMSTRESS_ALWAYS_EXIT_0") != "yes":
            stack.error(job, "the verdict of the run would make its generators fail")


def check_restricted(stack):
    for space in stack.kind("Namespace"):
        if space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            stack.error(space, "is not restricted")
    for load in stack.workloads():
        spec, one = pod(load), container(load)
        of_pod, own = spec.get("securityContext", {}), one.get("securityContext", {})
        if len(spec["containers"]) != 1 or "initContainers" in spec:
            stack.error(load, "has several containers, which these rules do not check")
        if not of_pod.get("runAsNonRoot") or not of_pod.get("runAsUser") or of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            stack.error(load, "runs as root or without a seccomp profile")
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
            stack.error(load, "may gain privileges")
        if own.get("privileged") or any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            stack.error(load, "uses the host")
        if not own.get("readOnlyRootFilesystem") or spec.get("automountServiceAccountToken") is not False:
            stack.error(load, "can write to its image, or has a token for the cluster")
        for volume in spec.get("volumes", []):
            if not RESTRICTED_VOLUMES & set(volume):
                stack.error(load, f"the volume `{volume['name']}` is not allowed in a restricted namespace")
        for sysctl in of_pod.get("sysctls", []):
            if sysctl["name"] not in SAFE_SYSCTLS:
                stack.error(load, f"the sysctl {sysctl['name']} is not safe")
        if spec.get("enableServiceLinks") is not False:
            stack.error(load, "gets variables of Services, which can be settings of the programs")


def check_memory(stack):
    for name in ("redis", "control"):
        load = stack.named("Deployment", name)
        command = container(load)["command"]
        text = configuration(stack, load, "redis.conf")
        most = command[command.index("--maxmemory") + 1] if "--maxmemory" in command else re.search(r"^maxmemory (\S+)", text, re.M)[1]
        if bytes_of(most) * 1.2 > bytes_of(container(load)["resources"]["limits"]["memory"]):
            stack.error(load, f"maxmemory {most} leaves less than a fifth of its memory for buffers")
    for load in stack.workloads():
        if "cpu" in container(load)["resources"]["limits"]:
            stack.error(load, "would be throttled by a limit of CPU time")


def check_policies(stack):
    for policy in stack.kind("NetworkPolicy"):
        loads = stack.selected(policy["spec"]["podSelector"])
        if not loads:
            stack.error(policy, "its selector matches no pod")
        for rule in policy["spec"]["ingress"]:
            for port in rule["ports"]:
                if any(port["port"] not in ports(load) for load in loads):
                    stack.error(policy, f"its pods have no port `{port['port']}`")
            for peer in rule.get("from", []):
                if "podSelector" in peer and not stack.selected(peer["podSelector"]):
                    stack.error(policy, "it allows pods that do not exist")
    for load in stack.workloads():
        for name, value in environment(load).items():
            found = re.fullmatch(r"redis://([a-z]+):6379", value or "")
            if found and not allowed(stack, labels(load), found[1]):
                stack.error(load, f"its connections to {found[1]} are not allowed")


def allowed(stack, source, name):
    policy = stack.named("NetworkPolicy", name)
    peers = [peer for rule in policy["spec"]["ingress"] for peer in rule.get("from", [])] if policy else []
    return any("podSelector" in peer and matches(peer["podSelector"], source) for peer in peers)


def version():
    return re.search(r'^version = "(.*)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]


def check_images(stack):
    for load in stack.workloads():
        image = container(load)["image"]
        name, _, tag = image.partition(":")
        if not tag or tag == "latest":
            stack.error(load, f"the image {image} has no fixed version")
        if "streamstress" in name and tag != version():
            stack.error(load, f"the image {image} is not that of version {version()}")


RULES = [
    check_selectors, check_services, check_probes, check_addresses, check_volumes, check_drains, check_haproxy, check_autoscaling,
    check_job, check_restricted, check_memory, check_policies, check_images,
]


def check(objects):
    stack = Stack(objects)
    for rule in RULES:
        rule(stack)
    return stack.errors


def check_template(path):
    """Checks the placeholders of a template: `KEY: VALUE # set: NAME`."""
    found = re.findall(r"^ *(?:- )?[\w-]+: \S.* # set: ([\w-]+)$", path.read_text(), re.M)
    marked = [line for line in path.read_text().splitlines() if "# set:" in line and not line.startswith("#")]
    errors = [f"the placeholder `{name}` is unknown" for name in found if name not in PLACEHOLDERS]
    if len(found) != len(marked):
        errors.append(f"{len(marked) - len(found)} placeholders do not have the form `KEY: VALUE # set: NAME`")
    for name in {"generators", "image", "plan", "run-id"} - set(found):
        errors.append(f"the placeholder `{name}` is missing")
    return [f"{path.relative_to(ROOT)}: {error}" for error in errors]


def check_versions():
    """Checks the versions of our images in all files of deploy/."""
    files = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()]
    tags = [(path, tag) for path in files for tag in re.findall(r"/streamstress-\w+:([\w.]+)", path.read_text())]
    return [f"{path.relative_to(ROOT)}: the image of version {tag} is not that of {version()}" for path, tag in tags if tag != version()]


def main(arguments):
    *stacks, generators = ([obj for obj in yaml.safe_load_all(Path(name).read_text()) if obj] for name in arguments)
    names = [Path(name).stem for name in arguments[:-1]]
    errors = [f"{name}: {error}" for name, stack in zip(names, stacks) for error in check(stack + generators)]
    for path in ("deploy/kubernetes/generators/job.yaml", "deploy/swarm/generators.yaml"):
        errors += check_template(ROOT / path)
    errors += check_versions()
    notices = 0
    for expected, change, objects in broken(stacks[-1] + generators) if not errors else []:
        notices += 1
        if not any(expected in error for error in check(objects)):
            errors.append(f"no rule notices this change: {change}")
    for error in errors:
        print(f"check_kubernetes: {error}", file=sys.stderr)
    if errors:
        return 1
    print(f"{', '.join(names)} with generators: {len(RULES)} rules hold, and notice {notices} broken manifests")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
