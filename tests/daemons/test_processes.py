"""The daemons as real processes: start, readiness, stop, exit codes, hostile bytes, restart."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zmq
from prometheus_client.parser import text_string_to_metric_families

from propius.cli.cluster import Cluster, free_ports
from propius.cli.status import run_info, status
from propius.config import config_yaml
from propius.messages import (
    GetSchema,
    Header,
    ListJobs,
    Message,
    decode_header,
    decode_payload,
    encode,
)
from propius.shell import exit_codes

OUTSIDE = [("job_manager", "jobs"), ("load_balancer", "clients")]
DAEMONS = ["scheduler", "job_manager", "load_balancer", "client_manager-0"]


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for what another process is about to do."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not happen in time"
        time.sleep(0.02)


@dataclass
class Site:
    """A state directory and the daemons that a test started on it, without a supervisor."""

    folder: Path
    changes: dict[str, dict[str, object]] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        ports = free_ports(5)
        values: dict[str, dict[str, object]] = {
            "job_manager": {"port": ports[0], "inside_port": ports[1], "admin_port": 0},
            "load_balancer": {"port": ports[2], "inside_port": ports[3], "admin_port": 0},
            "scheduler": {"port": ports[4], "admin_port": 0},
            "client_manager": {"admin_port_base": 0},
        }
        for section, keys in self.changes.items():
            values.setdefault(section, {}).update(keys)
        self.values = values
        self.state = self.folder / "state"
        self.config = self.folder / "config.yml"
        self.config.write_text(config_yaml({"state_dir": str(self.state), **values}))

    def start(self, daemon: str, **env: str) -> subprocess.Popen[str]:
        """Start a daemon by its console script."""
        name, _, number = daemon.partition("-")
        script = Path(sys.executable).with_name(f"propius-controller-{name.replace('_', '-')}")
        process = subprocess.Popen(
            [str(script), *([number] if number else []), "--config", str(self.config)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **env},
        )
        self.processes.append(process)
        return process

    def wait(self, daemon: str, state: str) -> str:
        """Wait until a daemon is in this state; the reason it gives."""

        def reached() -> bool:
            now = status(self.state, daemon)
            return now.state == state and now.why != "starting"

        until(reached, f"{daemon} {state}")
        return status(self.state, daemon).why

    def end(self) -> None:
        """Kill what is left."""
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """An empty site."""
    site = Site(tmp_path)
    yield site
    site.end()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and the one line of a process that ends by itself."""
    _, said = process.communicate(timeout=30)
    lines = [line for line in said.splitlines() if line.startswith("propius: ")]
    assert len(lines) <= 1, said
    assert "Traceback" not in said
    return process.returncode, lines[0] if lines else ""


# --- start, readiness, stop -----------------------------------------------------------------


def test_daemons_start_in_any_order_and_wait_for_each_other(site: Site) -> None:
    """A daemon without its peers lives, says whom it misses, and is ready once they are there."""
    manager = site.start("client_manager-0")
    assert "load balancer" in site.wait("client_manager-0", "not ready")
    balancer = site.start("load_balancer")
    assert "manager" in site.wait("load_balancer", "not ready")
    job_manager = site.start("job_manager")
    assert "scheduler" in site.wait("job_manager", "not ready")
    scheduler = site.start("scheduler")
    for daemon in DAEMONS:
        site.wait(daemon, "ready")
    for process in (manager, balancer, job_manager, scheduler):
        process.send_signal(signal.SIGTERM)
    for process in (manager, balancer, job_manager, scheduler):
        assert ended(process) == (0, "")
    assert not list((site.state / "run").glob("*.json"))


@pytest.mark.parametrize("daemon", DAEMONS)
def test_sigterm_before_ready_exits_0(site: Site, daemon: str) -> None:
    """A daemon that waits for its peers ends at once, and in good order."""
    process = site.start(daemon)
    site.wait(daemon, "not ready")
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (0, "")


@pytest.mark.parametrize("delay_s", [0.1, 0.25])
def test_sigterm_during_start_exits_0(site: Site, delay_s: float) -> None:
    """Also while modules are being imported: no traceback, no signal as the cause of death."""
    process = site.start("job_manager")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(delay_s)
    process.send_signal(signal.SIGTERM)
    # In the first milliseconds it is Python itself that starts.
    assert ended(process)[0] in {0, -signal.SIGTERM}


def test_files_of_a_daemon_are_private(site: Site) -> None:
    """Key, store and run file can be read by their owner only, and the log shows no key."""
    process = site.start("job_manager")
    site.wait("job_manager", "not ready")
    key_file = site.state / "operator.key"
    key = key_file.read_text().strip()
    assert len(bytes.fromhex(key)) == 32
    for path in (key_file, site.state / "propius.db", site.state / "run" / "job_manager.json"):
        assert path.stat().st_mode & 0o077 == 0, path
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert '"started"' in said
    assert key not in said


def test_service_manager_is_told(site: Site) -> None:
    """READY comes only when the daemon is ready, WATCHDOG while it waits, STOPPING at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        address = str(site.folder / "notify")
        listener.bind(address)
        listener.settimeout(30)
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "200000"}
        process = site.start("scheduler", **env)
        heard = ""
        while "WATCHDOG=1" not in heard:
            heard += listener.recv(4_096).decode()
        assert "STATUS=not ready: " in heard
        assert "READY=1" not in heard
        site.start("job_manager")
        while "READY=1" not in heard:
            heard += listener.recv(4_096).decode()
        process.send_signal(signal.SIGTERM)
        while "STOPPING=1" not in heard:
            heard += listener.recv(4_096).decode()
        assert ended(process)[0] == 0


# --- what prevents a start --------------------------------------------------------------------


@pytest.mark.parametrize(
    "daemon,section,key",
    [
        ("job_manager", "job_manager", "port"),
        ("job_manager", "job_manager", "inside_port"),
        ("job_manager", "job_manager", "admin_port"),
        ("load_balancer", "load_balancer", "port"),
        ("scheduler", "scheduler", "port"),
    ],
)
def test_port_in_use_exits_3_with_address_and_key(
    tmp_path: Path, daemon: str, section: str, key: str
) -> None:
    """One line names the address and the key of the configuration."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        site = Site(tmp_path, {section: {key: port}})
        code, line = ended(site.start(daemon))
    assert code == exit_codes.CANNOT_BIND
    assert f"127.0.0.1:{port}" in line
    assert f"({section}.{key})" in line


@pytest.mark.parametrize(
    "text,named",
    [
        ("scheduler: {polcy: irs}", "scheduler.polcy"),
        ("scheduler:\n  seed: 1\n  seed: 2", "scheduler.seed"),
        ("scheduler: {port: 70000}", "scheduler.port"),
        ("scheduler: {host: 0.0.0.0}", "scheduler.host"),
        ("scheduler: {policy: alphabetical}", "scheduler.policy"),
        ("scheduler: [", "not valid YAML"),
    ],
)
def test_wrong_configuration_exits_2_and_names_the_key(site: Site, text: str, named: str) -> None:
    """Every kind of wrong configuration is one line, and nothing is left behind."""
    site.config.write_text(f"state_dir: {site.state}\n{text}\n")
    code, line = ended(site.start("scheduler"))
    assert code == exit_codes.CONFIGURATION
    assert named in line
    assert not list(site.state.glob("run/*.json"))


def test_daemon_that_must_be_found_needs_a_port(tmp_path: Path) -> None:
    """A client manager cannot dial port 0, and says which key it is."""
    site = Site(tmp_path, {"scheduler": {"port": 0}})
    code, line = ended(site.start("client_manager-0"))
    assert code == exit_codes.CONFIGURATION
    assert "scheduler.port: 0" in line


def test_same_daemon_twice_on_one_state_is_refused(site: Site) -> None:
    """The second one ends and says why; the first goes on."""
    site.start("load_balancer")
    site.wait("load_balancer", "not ready")
    code, line = ended(site.start("load_balancer"))
    assert code == exit_codes.CANNOT_BIND
    assert "already" in line
    assert status(site.state, "load_balancer").state == "not ready"


def test_damaged_store_exits_4(site: Site) -> None:
    """A file that is no store is refused in one line, and not touched."""
    site.state.mkdir()
    (site.state / "propius.db").write_bytes(b"not a database, but longer than its header" * 100)
    code, line = ended(site.start("job_manager"))
    assert code == exit_codes.STORE
    assert "propius.db" in line


def test_wrong_manager_id_exits_2(site: Site) -> None:
    """An id that is no small number is a mistake of the command line."""
    process = site.start("client_manager-seven")
    process.communicate(timeout=30)
    assert process.returncode == exit_codes.CONFIGURATION


# --- a whole system, under supervisord --------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A ready system with two client managers."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


def ask(endpoint: str, message: Message) -> Message:
    """One honest request on a fresh connection."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket_:
        socket_.linger = 0
        socket_.rcvtimeo = 20_000
        socket_.connect(endpoint)
        header = Header(kind=message.kind, sender="ab" * 16, session=1, request=1)
        socket_.send_multipart(encode(header, message))
        frames = socket_.recv_multipart()
    return decode_payload(decode_header(frames[0]).kind, frames[1])


def metric(cluster: Cluster, daemon: str, name: str) -> float:
    """The sum of a metric over its labels."""
    connection = http.client.HTTPConnection(cluster.admin(daemon), timeout=10)
    try:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    finally:
        connection.close()
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    )


def send_garbage(endpoint: str) -> None:
    """Bytes that are no ZMTP, and ZMTP that is no message of ours."""
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    for garbage in (os.urandom(200), b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, bytes(64), b""):
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(garbage)
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 1_000
        dealer.connect(endpoint)
        for frames in ([b""], [os.urandom(50)] * 2, [b"\xc1", b"\xc1"], [b"x" * 300, b""]):
            dealer.send_multipart(frames)


def send_too_many_frames(endpoint: str) -> None:
    """Three frames, and fifty thousand."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 1_000
        dealer.connect(endpoint)
        dealer.send_multipart([b"a", b"b", b"c"])
        dealer.send_multipart([b""] * 50_000)


def send_oversize(endpoint: str) -> None:
    """A message of 50 MB."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 1_000
        dealer.connect(endpoint)
        header = Header(kind="check_in", sender="cd" * 16, session=1, request=1)
        dealer.send_multipart([encode(header, GetSchema())[0], bytes(50_000_000)])


@pytest.mark.parametrize("daemon,link", OUTSIDE)
@pytest.mark.parametrize(
    "attack,counted",
    [
        (send_garbage, "propius_refused_headers_total"),
        (send_too_many_frames, "propius_link_endless_messages_total"),
        (send_oversize, "propius_link_disconnected_total"),
    ],
)
def test_hostile_bytes_are_counted_and_honest_requests_served(
    cluster: Cluster,
    daemon: str,
    link: str,
    attack: Callable[[str], None],
    counted: str,
) -> None:
    """Garbage, endless and oversize messages: the daemon stays, counts, and serves others."""
    endpoint, pid = cluster.endpoint(daemon, link), cluster.pid(daemon)
    before = metric(cluster, daemon, counted)
    attack(endpoint)
    assert ask(endpoint, GetSchema()).kind == "schema"
    until(lambda: metric(cluster, daemon, counted) > before, counted)
    assert cluster.pid(daemon) == pid


@pytest.mark.parametrize("daemon", [*DAEMONS, "client_manager-1"])
def test_metrics_pages_parse_and_have_no_unbounded_labels(cluster: Cluster, daemon: str) -> None:
    """Each daemon's page parses; labels are only the daemon, the link and histogram buckets."""
    connection = http.client.HTTPConnection(cluster.admin(daemon), timeout=10)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    families = [*text_string_to_metric_families(page)]
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert labels == {"daemon", "link", "le"}
    names = {family.name for family in families}
    assert {"propius_ready", "propius_loop_lag_seconds", "propius_link_received"} <= names


def test_operator_key_is_needed_to_list_jobs(cluster: Cluster) -> None:
    """A stranger's key is refused by the running system."""
    endpoint = cluster.endpoint("job_manager", "jobs")
    assert ask(endpoint, ListJobs(secret=bytes(32))).kind == "error"
    key = bytes.fromhex((cluster.directory / "operator.key").read_text())
    assert ask(endpoint, ListJobs(secret=key)).kind == "job_list"


@pytest.mark.parametrize("daemon", [*DAEMONS, "client_manager-1"])
def test_killed_daemon_is_restarted_and_all_are_ready_again(cluster: Cluster, daemon: str) -> None:
    """After kill -9 of any one daemon the system is whole again within moments."""
    killed = cluster.kill(daemon)
    until(lambda: cluster.pid(daemon) not in {0, killed}, f"restart of {daemon}")
    cluster.wait_ready()
    assert ask(cluster.endpoint("load_balancer", "clients"), GetSchema()).kind == "schema"


def test_cluster_leaves_no_process(tmp_path: Path) -> None:
    """When the context ends, everything that it started is gone."""
    with Cluster(tmp_path / "c", managers=1) as cluster:
        pids = [run_info(cluster.directory, name)["pid"] for name in cluster.names]
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()
    conf = re.escape(str(tmp_path / "c"))
    found = subprocess.run(["pgrep", "-f", conf], capture_output=True, text=True, check=False)
    assert found.stdout == ""
