"""Several workers behind one port: counted, swapped and drained as one server; one that dies is replaced."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import artifact_samples as samples
import pytest
from serving_samples import SLOW, Client, Reply, Server, encoded, load, once, request
from waiting import PATIENCE, until

from deploy.bundles.bundle import Bundle
from deploy.errors import ArtifactError, ConfigError
from deploy.serving.options import ServeConfig

pytest.importorskip("uvicorn")
process = pytest.importorskip("deploy.serving.process")
sums = pytest.importorskip("deploy.serving.workers.sums")
supervisors = pytest.importorskip("deploy.serving.workers.supervisor")
parser = pytest.importorskip("prometheus_client.parser")

IMAGE = encoded({(0, 1): 0, (2, 3): 2})
METRICS = request(b"", "/metrics", "GET")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def server(bundle: Bundle) -> Iterator[Server]:
    with Server(bundle.root, "workers=2", "max_batch_size=1", seconds=0.002) as running:
        yield running


def workers(server: Server) -> list[int]:
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def counted(server: Server, name: str, **labels: str) -> float:
    text = asyncio.run(once(server.port, METRICS)).body.decode()
    found = (sample for family in parser.text_string_to_metric_families(text) for sample in family.samples)
    return float(sum(one.value for one in found if one.name == name and labels.items() <= one.labels.items()))


def who_answered(server: Server) -> set[int]:
    return {line["worker"] for line in list(server.lines) if line["event"] == "request" and line["path"] == "/v1/detect"}


def test_connections_are_dealt_out_and_what_workers_count_is_added_up(server: Server) -> None:
    before = counted(server, "edgedistill_requests_total", endpoint="detect", code="200")
    replies = asyncio.run(load(server.port, 4, lambda _: request(IMAGE), lambda count: count < 40 or who_answered(server) != {0, 1}))
    assert {reply.status for reply in replies} == {200}
    assert counted(server, "edgedistill_requests_total", endpoint="detect", code="200") - before == len(replies)
    assert counted(server, "edgedistill_ready") == 1
    assert counted(server, "edgedistill_engine_info") == 1
    stats = json.loads(asyncio.run(once(server.port, request(b"", "/v2/models/cells-here/stats", "GET"))).body)
    assert stats["model_stats"][0]["inference_count"] == before + len(replies)


def test_a_worker_that_dies_is_replaced_and_what_it_counted_stays(server: Server) -> None:
    replies = asyncio.run(load(server.port, 4, lambda _: request(IMAGE), lambda count: count < 20))
    before = counted(server, "edgedistill_requests_total", endpoint="detect")
    victim, survivor = workers(server)
    os.kill(victim, signal.SIGKILL)
    ended = server.until("worker ended")
    assert ended["code"] == -signal.SIGKILL
    after = asyncio.run(load(server.port, 4, lambda _: request(IMAGE), lambda count: count < 20))
    assert {reply.status for reply in (*replies, *after)} == {200}, "the other one serves in the meantime"
    assert server.until("worker replaced")["worker"] == ended["worker"]
    assert len(workers(server)) == 2
    assert survivor in workers(server)
    assert counted(server, "edgedistill_requests_total", endpoint="detect") == before + len(after)


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_under_load_drains_all_workers_and_loses_nothing(bundle: Bundle, stop: signal.Signals) -> None:
    with Server(bundle.root, "workers=2", "drain_seconds=3", "max_batch_size=1", "grpc_port=0", seconds=0.01) as server:
        stopped: list[float] = []

        def go_on(count: int) -> bool:
            if count >= 30 and not stopped:
                server.send(stop)
                stopped.append(time.monotonic())
            return stop == signal.SIGINT or not stopped or time.monotonic() < stopped[0] + 1

        replies = asyncio.run(load(server.port, 8, lambda _: request(IMAGE), go_on))
        code = server.end()
    assert sum(reply.status == 200 for reply in replies) == server.answered(200) >= 30
    lost = sum(reply.status == 0 for reply in replies)
    assert lost == 0 if stop == signal.SIGTERM else lost <= 8  # connections at rest, see test_process.py
    assert code == (0 if stop == signal.SIGTERM else 130)
    assert len(server.said("draining")) == 1
    assert len([line for line in server.said("listening") if line["address"].startswith("grpc")]) == 1


def test_a_bundle_swapped_under_load_is_served_by_all_workers_or_by_none(tmp_path: Path) -> None:
    old, new = samples.bundle(tmp_path / "old"), samples.bundle_for_128_px(tmp_path / "new")
    link = tmp_path / "current"
    link.symlink_to(old.root)

    def publish(folder: Path) -> None:
        (tmp_path / "next").symlink_to(folder)
        (tmp_path / "next").replace(link)

    def swapped(server: Server, done: str, number: int) -> list[Reply]:
        server.send(signal.SIGHUP)
        told: list[int] = []

        def go_on(count: int) -> bool:
            if not told and len(server.said(done)) == number:
                told.append(count)
            return not told or count < told[0] + 60

        return asyncio.run(load(server.port, 8, lambda _: request(IMAGE), go_on))

    with Server(link, "workers=2", "max_batch_size=2", seconds=0.002) as server:
        publish(new.root)
        replies = swapped(server, "serving", 2)
        assert {reply.status for reply in replies} == {200}
        assert {json.loads(reply.body)["version"] for reply in replies[-50:]} == {"2"}
        assert counted(server, "edgedistill_swaps_total", result="done") == 1
        (old.root / "engine.onnx").write_bytes(b"broken")
        publish(old.root)
        replies = swapped(server, "bundle refused", 1)
        assert {(reply.status, json.loads(reply.body)["version"]) for reply in replies} == {(200, "2")}
        assert counted(server, "edgedistill_swaps_total", result="refused") == 1


def test_a_worker_replaced_after_its_folder_was_has_all_workers_load_the_new_bundle(tmp_path: Path) -> None:
    old, new = samples.bundle(tmp_path / "old"), samples.bundle_for_128_px(tmp_path / "new")
    served = tmp_path / "served"
    shutil.copytree(old.root, served)
    with Server(served, "workers=2", "max_batch_size=1") as server:
        served.rename(tmp_path / "away")
        shutil.copytree(new.root, served)
        os.kill(workers(server)[0], signal.SIGKILL)
        assert server.until("bundle changed in its folder")["manifest_sha256"] == new.digest
        server.until("worker replaced")
        replies = asyncio.run(load(server.port, 4, lambda _: request(IMAGE), lambda count: count < 20 or len(who_answered(server)) < 2))
    bodies = [json.loads(reply.body) for reply in replies]
    assert {(body["version"], body["categories"][0]["id"]) for body in bodies} == {("2", 13)}
    assert [line["manifest_sha256"] for line in server.said("serving")] == [old.digest, new.digest]


ENDS_AT_ONCE = """
import asyncio
from pathlib import Path
from deploy.serving.workers import supervisor, worker
mark, run, load = Path(MARK), worker.run, supervisor.Supervisor._load
def run_the_second_time(number, *given, **options):
    if number == 1 and not mark.exists():
        mark.touch()
        return 7
    return run(number, *given, **options)
async def load_late(self):
    while self._served is None and len(self._crew.living) > 1:
        await asyncio.sleep(0.01)
    await load(self)
worker.run, supervisor.Supervisor._load = run_the_second_time, load_late
"""


def test_a_worker_that_ends_before_anything_is_served_is_replaced_too(bundle: Bundle, tmp_path: Path) -> None:
    changes = ENDS_AT_ONCE.replace("MARK", repr(str(tmp_path / "mark")))
    with Server(bundle.root, "workers=2", "max_batch_size=1", changes=changes) as server:
        assert (server.until("worker ended")["worker"], server.until("worker replaced")["worker"]) == (1, 1)
        assert len(workers(server)) == 2


@pytest.mark.slow
def test_a_bundle_that_no_worker_can_open_is_refused_in_one_line(bundle: Bundle) -> None:
    changes = "from deploy.serving import model; model.test = lambda *_: (_ for _ in ()).throw(process.ConfigError('it fails its test'))"
    program = [sys.executable, "-c", SLOW.format(seconds=0, changes=changes), "serve", str(bundle.root), "--port", "0", "--workers", "2"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if not line.startswith("{")] == ["edgedistill: it fails its test"]


@pytest.mark.slow
def test_workers_end_when_the_supervisor_is_killed(bundle: Bundle) -> None:
    with Server(bundle.root, "workers=2", "max_batch_size=1") as server:
        left = workers(server)
        os.kill(server.process.pid, signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "the workers to end", PATIENCE)


def test_a_client_keeps_its_worker(server: Server) -> None:
    async def ask() -> None:
        client = Client(server.port)
        for number in range(6):
            assert (await client.ask(request(IMAGE, headers=f"x-request-id: kept-{number}\r\n"))).status == 200
        client.close()

    asyncio.run(ask())
    until(lambda: sum(str(line.get("request_id")).startswith("kept-") for line in list(server.lines)) == 6, "its lines in the log")
    assert len({line["worker"] for line in list(server.lines) if str(line.get("request_id")).startswith("kept-")}) == 1


def test_a_bundle_that_one_worker_refuses_is_dropped_when_all_have_opened_it(bundle: Bundle) -> None:
    """Earlier, those that were still busy would have kept it, and its engine, for ever."""
    said: list[object] = []

    async def ask(one: int, message: object) -> dict[str, object]:
        if one == 2:
            await asyncio.sleep(0.01)
        said.append(one)
        if one == 1:
            return {"failed": "no memory", "kind": "ArtifactError"}
        return {"failed": None, "size": 1, "sha256": "", "gated": True}

    async def run() -> None:
        with socket.socket() as listener:
            supervisor = supervisors.Supervisor(bundle.root, ServeConfig(workers=3), listener, allow_ungated=False)
            supervisor._crew = SimpleNamespace(living=(0, 1, 2), ask=ask, tell_all=lambda message: said.append(message["do"]))
            await supervisor._load()

    with pytest.raises(ArtifactError, match="no memory"):
        asyncio.run(run())
    assert said == [0, 1, 2, "drop"]


def test_workers_of_two_servers_share_no_port_for_grpc() -> None:
    """The system would let them, and deal clients out to both bundles."""
    with (
        process.grpc_port(ServeConfig(grpc_port=0, workers=2)) as ours,
        pytest.raises(ConfigError, match=f"gRPC on 127.0.0.1, port {ours.grpc_port} .Address already in use"),
        process.grpc_port(ours),
    ):
        pass


TEXT = """\
# HELP a_requests_total Requests
# TYPE a_requests_total counter
a_requests_total{{code="200"}} {requests}
# HELP a_seconds Time
# TYPE a_seconds histogram
a_seconds_bucket{{le="1.0"}} 1.0
a_seconds_bucket{{le="+Inf"}} 2.0
a_seconds_count 2.0
a_seconds_sum 1.5
# HELP edgedistill_ready Ready
# TYPE edgedistill_ready gauge
edgedistill_ready {ready}
"""


def test_sums_keep_what_ended_workers_counted_and_nothing_else_of_them() -> None:
    one, other, gone = (sums.Counted(TEXT.format(requests=n, ready=ready), (n, 1.5)) for n, ready in ((3, 1), (4, 0), (5, 0)))
    found = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(sums.summed([one, other], [gone]))
        for sample in family.samples
    }
    assert found["a_requests_total", ("200",)] == 12
    assert found["a_seconds_bucket", ("1.0",)] == 3
    assert found["a_seconds_sum", ()] == 4.5
    assert found["edgedistill_ready", ()] == 0
    assert "edgedistill_ready 1.0" in sums.summed([one], [gone])
    assert sums.summed_totals([one, other, sums.Counted()]) == (7, 3.0)
    assert sums.summed([], [sums.merged([sums.merged([one, other]), gone])]) == sums.summed([], [one, other, gone])
