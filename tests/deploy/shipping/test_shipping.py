"""What `package` and `push` write, read by those it is written for."""

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import artifact_samples as samples
import numpy as np
import onnx_samples
import pytest
import yaml
from packaging.requirements import Requirement
from PIL import Image
from serving_samples import Server

from deploy.bundles import triton
from deploy.bundles.bundle import Bundle, sha256, write
from deploy.bundles.manifest import MANIFEST
from deploy.contract import Preprocessing
from deploy.engines import int8_training
from deploy.engines.int8_training import INT8, Int8Training
from deploy.prediction.detections import to_coco
from deploy.prediction.image_files import load_image
from deploy.prediction.predictor import SessionPredictor
from deploy.runtimes import ort
from deploy.runtimes.onnx_files import header
from deploy.shipping import hub, ship
from pipeline import cli

CELLS = {(0, 1): 0, (2, 3): 2}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("ship"), license="Apache-2.0")


@pytest.fixture(scope="module")
def shipped(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ready"
    assert cli.main(["package", str(bundle.root), "--out", str(out), "--image", "registry/cells:1"]) == 0
    return out


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(onnx_samples.picture(CELLS)).resize((200, 120)).save(path)
    return path


def expected(bundle: Bundle, photo: Path) -> list[dict[str, Any]]:
    contract = bundle.manifest.contract
    with bundle.open(threads=1) as session:
        return to_coco(SessionPredictor(session, contract).detect(load_image(photo, contract.preprocessing)), 0, contract)


class TestPackage:
    def test_the_bundle_goes_along_whole(self, shipped: Path, bundle: Bundle) -> None:
        assert Bundle.load(shipped / "bundle").manifest == bundle.manifest
        assert not list(shipped.parent.glob(".*"))

    def test_no_placeholder_is_left(self, shipped: Path) -> None:
        for name in ("Dockerfile.cpu", "Dockerfile.gpu", "kserve.yaml", "README.md"):
            left = re.findall(r"\$\{\w+\}", (shipped / name).read_text())
            assert left == [], name

    def test_triton_s_own_schema_reads_its_configuration(self, shipped: Path, bundle: Bundle) -> None:
        text_format = pytest.importorskip("google.protobuf.text_format")
        model_config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
        folder = shipped / "triton" / "cells-here"
        config = text_format.Parse((folder / "config.pbtxt").read_text(), model_config.ModelConfig())
        assert (config.name, config.backend, config.max_batch_size) == ("cells-here", "onnxruntime", 8)
        assert [(one.name, model_config.DataType.Name(one.data_type), list(one.dims)) for one in config.input] == [
            ("images", "TYPE_FP32", [3, 64, 64])
        ]
        k = onnx_samples.MAX_DETECTIONS
        assert [(one.name, model_config.DataType.Name(one.data_type), list(one.dims)) for one in config.output] == [
            ("boxes", "TYPE_FP32", [k, 4]),
            ("scores", "TYPE_FP32", [k]),
            ("labels", "TYPE_INT64", [k]),
            ("converged", "TYPE_BOOL", [1]),
        ]
        assert list(config.output[3].reshape.shape) == []
        assert config.dynamic_batching.max_queue_delay_microseconds > 0
        assert config.model_warmup[0].inputs["images"].random_data
        assert sha256(folder / "1" / config.default_model_filename) == bundle.manifest.files["engine.onnx"]
        assert (folder / "labels.txt").read_text().splitlines() == list(onnx_samples.CLASSES)

    @pytest.mark.parametrize(
        ("runtime", "backend", "file"),
        [("trt", "tensorrt", "model.plan"), ("openvino", "openvino", "model.onnx"), ("trt_rtx", "onnxruntime", "model.onnx")],
    )
    def test_every_runtime_has_a_backend(self, tmp_path: Path, runtime: str, backend: str, file: str) -> None:
        made = samples.bundle(tmp_path)
        (made.root / "engine.onnx").rename(made.root / "engine.bin")
        manifest = json.loads((made.root / MANIFEST).read_text())
        manifest |= {"runtime": runtime, "options": {}, "engine": "engine.bin"}
        manifest["files"]["engine.bin"] = manifest["files"].pop("engine.onnx")
        samples.resign(made.root, manifest)
        foreign = Bundle.load(made.root)
        triton.write(foreign, tmp_path / "repository")
        folder = tmp_path / "repository" / "cells-here"
        assert f'backend: "{backend}"' in (folder / "config.pbtxt").read_text()
        engine = "model.onnx" if runtime == "trt_rtx" else "engine.bin"  # Triton has no backend for it
        assert sha256(folder / "1" / file) == sha256(foreign.root / engine)

    def test_without_an_engine_the_graph_is_for_onnx_runtime(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.runtimes.nvidia.session.why_not_installed", lambda *_: "tensorrt is not installed")
        made = samples.bundle(tmp_path, why="tensorrt is not installed", built=samples.engine(tmp_path, samples.target(runtime="trt")))
        assert made.manifest.engine is None
        triton.write(made, tmp_path / "repository")
        folder = tmp_path / "repository" / made.manifest.name
        assert 'platform: "onnxruntime_onnx"' in (folder / "config.pbtxt").read_text()
        assert [path.name for path in (folder / "1").iterdir()] == ["model.onnx"]

    def test_what_is_decoded_on_the_host_is_described_as_it_is(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path, built=samples.engine(tmp_path, samples.target(), raw=True))
        out = tmp_path / "ready"
        assert cli.main(["package", str(made.root), "--out", str(out)]) == 0
        readme = (out / "README.md").read_text()
        listed = re.findall(r"`([\w./-]+)`", "\n".join(line.split("|")[1] for line in readme.splitlines() if line.startswith("| `")))
        assert {"bundle/", "client.py"} <= set(listed)
        assert [name for name in listed if not (out / name).exists()] == []
        assert "triton.sh" not in readme
        graph = header.header_of(made.root / "model.onnx", (made.root / "model.onnx").read_bytes())
        card = (made.root / "README.md").read_text()
        assert all(f"`{name}`" in card for name in graph.outputs)
        assert not any(f"`{name}`" in card for name in ("boxes", "scores", "labels", "converged"))
        assert "docs/host-decoding.md" in card

    def test_kserve_probes_addresses_that_the_server_has(self, shipped: Path) -> None:
        api = pytest.importorskip("deploy.serving.api")
        service = yaml.safe_load((shipped / "kserve.yaml").read_text())
        assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
        assert service["metadata"]["name"] == "cells-here"
        container = service["spec"]["predictor"]["containers"][0]
        assert container["image"] == "registry/cells:1"
        assert container["securityContext"]["runAsNonRoot"] is True
        for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
            assert container[probe]["httpGet"]["path"] in api.openapi()["paths"]

    @pytest.mark.parametrize("name", ["2024.cells_cpu-int8", "Cells", "a" * 200, "1" + "-" * 199])
    def test_kserve_takes_the_name_of_any_bundle(self, name: str) -> None:
        """KServe's own pattern, and a service's longest name."""
        made = ship.kubernetes_name(name)
        assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", made)
        assert len(f"{made}-predictor-default") <= 63

    @pytest.mark.parametrize("kind", ["cpu", "gpu"])
    def test_dockerfiles_copy_what_is_there_and_run_as_nobody_special(self, shipped: Path, kind: str) -> None:
        text = (shipped / f"Dockerfile.{kind}").read_text().replace("\\\n", " ")
        words = [(line.partition(" ")[0], line.partition(" ")[2]) for line in text.splitlines() if line and not line.startswith("#")]
        names = [instruction for instruction, _ in words]
        assert names[0] == "FROM"
        for instruction, rest in words:
            if instruction == "COPY":  # Docker refuses one of which nothing is there
                assert (shipped / rest.split()[0]).exists()
        user = max(index for index, name in enumerate(names) if name == "USER")
        assert words[user][1] == "10001"
        assert user < names.index("CMD")
        assert not {"RUN", "COPY"} & set(names[user:])

    @pytest.mark.parametrize(
        ("kind", "wheel", "version", "installed"),
        [
            ("cpu", False, "==0.1.0", ["edgedistill[serve,build,signing]==0.1.0"]),
            ("cpu", True, "", ["WHEEL[serve,build,signing]"]),
            ("gpu", True, "", ["WHEEL[serve,build,signing]", "onnxruntime-gpu[cuda,cudnn]"]),
        ],
    )
    def test_what_dockerfiles_install(
        self, shipped: Path, tmp_path: Path, kind: str, wheel: bool, version: str, installed: list[str]
    ) -> None:
        line = self.installs(shipped, kind)
        (tmp_path / "wheels").mkdir()
        if wheel:
            (tmp_path / "wheels" / "edgedistill-0.1.0-py3-none-any.whl").touch()
        done = self.installing(line, tmp_path, version)
        assert done.returncode == 0
        said = [word.replace(str(tmp_path / "wheels" / "edgedistill-0.1.0-py3-none-any.whl"), "WHEEL") for word in done.stdout.split()]
        assert said == ["install", "--no-cache-dir", *installed]
        for requirement in installed:
            Requirement(requirement.replace("WHEEL", "edgedistill"))

    def test_nothing_of_our_name_is_taken_from_an_index_that_nobody_named(self, shipped: Path, tmp_path: Path) -> None:
        (tmp_path / "wheels").mkdir()
        done = self.installing(self.installs(shipped, "cpu"), tmp_path, "")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("put edgedistill's wheel next to the Dockerfile, or ")

    @staticmethod
    def installs(shipped: Path, kind: str) -> str:
        """The line of a Dockerfile that installs edgedistill."""
        text = (shipped / f"Dockerfile.{kind}").read_text().replace("\\\n", " ")
        return next(line.removeprefix("RUN ") for line in text.splitlines() if "pip install" in line)

    @staticmethod
    def installing(line: str, folder: Path, version: str) -> "subprocess.CompletedProcess[str]":
        """The line, in a shell whose pip only says what it is asked for."""
        script = f'pip() {{ for one in "$@"; do echo "$one"; done; }}\n{line.replace("/wheels", str(folder / "wheels"))}'
        environment = {**os.environ, "EDGEDISTILL_VERSION": version}
        return subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=False)

    def test_a_runtime_that_says_nothing_of_it_is_delivered_too(
        self, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(ort, "DELIVERY")
        ship.ship(bundle, tmp_path)
        assert "[serve,build,signing]" in (tmp_path / "Dockerfile.cpu").read_text()
        assert 'backend: "onnxruntime"' in (tmp_path / "triton" / "cells-here" / "config.pbtxt").read_text()

    def test_a_runtime_of_one_device_has_one_dockerfile(self, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path / "made")
        manifest = json.loads((made.root / MANIFEST).read_text())
        for runtime, kind in (("trt", "gpu"), ("openvino", "cpu")):
            samples.resign(made.root, {**manifest, "runtime": runtime, "options": {}})
            out = tmp_path / runtime
            out.mkdir()
            ship.ship(Bundle.load(made.root), out)
            assert [path.name for path in out.glob("Dockerfile.*")] == [f"Dockerfile.{kind}"]
            assert f"-f Dockerfile.{kind}" in (out / "README.md").read_text()

    def test_the_plain_example_finds_what_predict_finds(self, shipped: Path, bundle: Bundle, photo: Path) -> None:
        command = [sys.executable, *map(str, (shipped / "plain_onnxruntime.py", shipped / "bundle", photo))]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        wanted = expected(bundle, photo)
        assert [one["category"] for one in found] == [
            dict(zip(onnx_samples.CATEGORY_IDS, onnx_samples.CLASSES, strict=True))[one["category_id"]] for one in wanted
        ]
        for one, other in zip(found, wanted, strict=True):
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert one["bbox"] == pytest.approx(other["bbox"], abs=1e-3)

    @pytest.mark.parametrize(("alpha", "white"), [("blend", 65535), ("ignore", 4095)])
    def test_the_plain_example_decodes_as_predict_does(self, shipped: Path, tmp_path: Path, alpha: str, white: int) -> None:
        spec = importlib.util.spec_from_file_location("plain_onnxruntime", shipped / "plain_onnxruntime.py")
        assert spec is not None
        assert spec.loader is not None
        plain = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(plain)
        contract = Preprocessing.model_validate({"alpha": alpha, "white": white})
        ramp = Image.linear_gradient("L")
        clear = Image.merge("RGBA", (ramp, ramp.rotate(90), ramp.rotate(180), ramp))
        sixteen = Image.fromarray(np.arange(0, 65536, dtype=np.uint16).reshape(256, 256))
        for number, image in enumerate((clear, clear.quantize(16), Image.merge("LA", (ramp, ramp)), sixteen, ramp)):
            image.save(tmp_path / f"{number}.png")
            with Image.open(tmp_path / f"{number}.png") as opened:
                decoded = np.asarray(plain.decode(opened, contract.model_dump(mode="json")))
            assert np.array_equal(decoded, load_image(tmp_path / f"{number}.png", contract))

    def test_the_client_asks_a_server(self, shipped: Path, bundle: Bundle, photo: Path) -> None:
        pytest.importorskip("uvicorn")
        with Server(bundle.root, "max_batch_size=1") as server:
            command = [sys.executable, *map(str, (shipped / "client.py", photo, f"http://127.0.0.1:{server.port}"))]
            found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["annotations"]
            command[2] = command[1]  # no image
            refused = subprocess.run(command, capture_output=True, check=False)
        assert refused.returncode == 1
        assert refused.stderr.startswith(b'HTTP Error 400: Bad Request: {"error":"')
        assert [{**one, "image_id": 0} for one in found] == expected(bundle, photo)

    def test_what_is_refused(self, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "there").mkdir()
        assert cli.main(["package", str(bundle.root), "--out", str(tmp_path / "there")]) == 2
        assert "already exists" in capsys.readouterr().err
        assert cli.main(["package", str(tmp_path), "--out", str(tmp_path / "new")]) == 4
        assert not (tmp_path / "new").exists()


def foreign(place: Path) -> Bundle:
    """A bundle whose engine comes from a different machine; labeled images are in `data` beside it."""
    made = samples.bundle(place / "made")
    manifest = json.loads((made.root / MANIFEST).read_text())
    manifest["machine"]["cpu"] = "Imagined 3000"
    samples.resign(made.root, manifest)
    samples.dataset(place / "data")
    return made


class TestStart:
    """start.sh, as a container runs it."""

    def start(self, tmp_path: Path, bundle: Path, **variables: str) -> tuple[int, str]:
        """Run until the server would serve; the last command is only printed."""
        programs = tmp_path / "bin"
        programs.mkdir()
        python = shlex.quote(sys.executable)
        run = f'exec {python} -c "from pipeline.cli import main; import sys; sys.exit(main())" "$@"'
        only_check = f'#!/bin/sh\ncase "$*" in\n  *--port*) echo "$@" ;;\n  *) {run} ;;\nesac\n'
        (programs / "edgedistill").write_text(only_check)
        (programs / "edgedistill").chmod(0o755)
        script = Path(cli.__file__).parents[1] / "deploy" / "shipping" / "files" / "start.sh"
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "EDGEDISTILL_BUNDLE": str(bundle)}
        environment |= {"EDGEDISTILL_BUILT": str(tmp_path / "built"), **variables}
        done = subprocess.run(["sh", str(script)], env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout.splitlines()[-1] if done.stdout else done.stderr

    def test_a_bundle_of_this_machine_is_served_as_it_is(self, bundle: Bundle, tmp_path: Path) -> None:
        code, line = self.start(tmp_path, bundle.root, EDGEDISTILL_SERVE="--set sessions=2")
        assert (code, line) == (0, f"serve {bundle.root} --host 0.0.0.0 --port 8000 --grpc-port 8001 --set sessions=2")
        assert not (tmp_path / "built").exists()

    def test_an_engine_is_kept_inside_a_volume_which_stays(self, tmp_path: Path) -> None:
        root = foreign(tmp_path).root
        volume = tmp_path / "volume"
        (volume / "lost+found").mkdir(parents=True)
        places: dict[str, str] = {"EDGEDISTILL_BUILT": str(volume), "EDGEDISTILL_DATA": str(tmp_path / "data")}
        identity, stamps = volume.stat().st_ino, []
        for _ in range(2):
            code, line = self.start(tmp_path, root, **places)
            assert (code, line.split()[:2]) == (0, ["serve", str(volume / "engine")])
            stamps.append((volume / "engine" / MANIFEST).stat().st_mtime_ns)
            shutil.rmtree(tmp_path / "bin")
        assert stamps[0] == stamps[1]
        assert volume.stat().st_ino == identity
        assert {path.name for path in volume.iterdir()} == {"lost+found", "engine", "engine.from"}

    def test_a_foreign_one_is_built_and_judged_here(self, tmp_path: Path) -> None:
        root = foreign(tmp_path).root
        code, line = self.start(tmp_path, root, EDGEDISTILL_DATA=str(tmp_path / "data"))
        assert (code, line.split()[:2]) == (0, ["serve", str(tmp_path / "built")])
        Bundle.load(tmp_path / "built").refuse_ungated_here()
        # the next start finds it; of another bundle it is built anew
        stamp = (tmp_path / "built" / MANIFEST).stat().st_mtime_ns
        shutil.rmtree(tmp_path / "bin")
        assert self.start(tmp_path, root)[1].split()[:2] == ["serve", str(tmp_path / "built")]
        assert (tmp_path / "built" / MANIFEST).stat().st_mtime_ns == stamp
        manifest = json.loads((root / MANIFEST).read_text())
        manifest["description"] = "another"
        samples.resign(root, manifest)
        shutil.rmtree(tmp_path / "bin")
        self.start(tmp_path, root, EDGEDISTILL_DATA=str(tmp_path / "data"))
        assert (tmp_path / "built" / MANIFEST).stat().st_mtime_ns != stamp


class TestStartWithoutProgram:
    """start.sh beside a program that does what the test says."""

    def start(self, tmp_path: Path, program: str) -> tuple[int, list[str]]:
        """The exit code, and what the program was asked for."""
        (tmp_path / "edgedistill").write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\n{program}\n')
        (tmp_path / "edgedistill").chmod(0o755)
        script = Path(cli.__file__).parents[1] / "deploy" / "shipping" / "files" / "start.sh"
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "EDGEDISTILL_BUILT": str(tmp_path / "built")}
        silent = subprocess.DEVNULL
        done = subprocess.run(["sh", str(script)], env=environment, stdout=silent, stderr=silent, check=False)
        return done.returncode, (tmp_path / "asked").read_text().split()

    def test_wrong_options_are_not_answered_with_a_new_engine(self, tmp_path: Path) -> None:
        (tmp_path / "built").mkdir()
        assert self.start(tmp_path, "exit 2") == (2, ["serve"])
        assert (tmp_path / "built").exists()

    def test_a_signal_before_the_server_runs_ends_the_start(self, tmp_path: Path) -> None:
        """As it must of a container's first process, which hears only signals that it traps."""
        assert self.start(tmp_path, "kill -TERM $PPID") == (143, ["serve"])

    def test_a_build_that_is_ended_can_clean_up(self, tmp_path: Path) -> None:
        build = f"trap 'sleep 0.2; touch {tmp_path}/clean; exit' TERM\nkill -TERM $PPID\nwhile :; do sleep 0.01; done"
        assert self.start(tmp_path, f'[ "$1" = build ] || exit 4\n{build}') == (143, ["serve", "build"])
        assert (tmp_path / "clean").exists()


class TestTrustedStart:
    """start.sh and triton.sh with EDGEDISTILL_TRUSTED."""

    @pytest.fixture
    def key(self, tmp_path: Path) -> Any:
        pytest.importorskip("model_signing")
        pytest.importorskip("OpenSSL")
        return pytest.importorskip("signing_samples").pair(tmp_path / "a key", "key")

    def test_a_signed_bundle_is_served_as_it_is(self, bundle: Bundle, tmp_path: Path, key: Any) -> None:
        from signing_samples import signed

        folder = signed(bundle, tmp_path / "cells", key)
        code, line = TestStart().start(tmp_path, folder, EDGEDISTILL_TRUSTED=str(key.public))
        assert (code, line) == (0, f"serve {folder} --trusted {key.public} --host 0.0.0.0 --port 8000 --grpc-port 8001")

    def test_an_unsigned_one_is_refused(self, bundle: Bundle, tmp_path: Path, key: Any) -> None:
        code, said = TestStart().start(tmp_path, bundle.root, EDGEDISTILL_TRUSTED=str(key.public))
        assert code == 4
        assert said.count("is not signed (no model.sig)") == 2  # by serve --check and by build

    def test_an_engine_built_here_is_served_by_its_hash_and_an_earlier_one_is_not(self, tmp_path: Path, key: Any) -> None:
        from signing_samples import signed

        made = foreign(tmp_path)
        folder = signed(made, tmp_path / "cells", key)
        shutil.copytree(made.root, tmp_path / "built")
        shutil.copy(folder / MANIFEST, tmp_path / "built.from")
        code, line = TestStart().start(
            tmp_path, folder, EDGEDISTILL_DATA=str(tmp_path / "data"), EDGEDISTILL_TRUSTED=str(key.public), TMPDIR=str(tmp_path)
        )
        words = line.split()
        assert (code, words[0], words[2]) == (0, "serve", "--sha256")
        assert Path(words[1]) != tmp_path / "built"
        assert words[3] == sha256(Path(words[1]) / MANIFEST)
        Bundle.load(words[1]).refuse_ungated_here()

    def test_triton_gets_a_repository_of_the_verified_bundle(self, bundle: Bundle, tmp_path: Path, key: Any) -> None:
        from signing_samples import signed

        ready = tmp_path / "ready"
        assert cli.main(["package", str(signed(bundle, tmp_path / "cells", key)), "--out", str(ready)]) == 0
        programs = tmp_path / "bin"
        programs.mkdir()
        run = f'exec {shlex.quote(sys.executable)} -c "from pipeline.cli import main; import sys; sys.exit(main())" "$@"'
        for name, line in (("edgedistill", run), ("tritonserver", 'echo "$@"')):
            (programs / name).write_text(f"#!/bin/sh\n{line}\n")
            (programs / name).chmod(0o755)

        def start(**variables: str) -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path), **variables}
            return subprocess.run(
                ["sh", str(ready / "triton.sh"), "--log-verbose=1"], env=environment, capture_output=True, text=True, check=False
            )

        assert start().stdout == f"--model-repository={ready / 'triton'} --log-verbose=1\n"
        (ready / "triton" / "cells-here" / "1" / "model.onnx").write_bytes(b"evil")  # which is then not used
        done = start(EDGEDISTILL_TRUSTED=str(key.public))
        repository = Path(done.stdout.split()[0].removeprefix("--model-repository="))
        engine = (bundle.root / "engine.onnx").read_bytes()
        assert (repository / "cells-here" / "1" / "model.onnx").read_bytes() == engine
        (ready / "bundle" / "engine.onnx").write_bytes(b"evil")
        done = start(EDGEDISTILL_TRUSTED=str(key.public))
        assert (done.returncode, done.stdout) == (4, "")

    def test_kserve_has_the_variable(self, shipped: Path) -> None:
        service = yaml.safe_load((shipped / "kserve.yaml").read_text())["spec"]["predictor"]
        assert {"name": "EDGEDISTILL_TRUSTED", "value": ""} in service["containers"][0]["env"]
        assert [one["name"] for one in service["volumes"]] == [one["name"] for one in service["containers"][0]["volumeMounts"]]


class TestPush:
    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        """The upload client, its signatures kept, which remembers the folder's content."""
        module = pytest.importorskip("huggingface_hub")
        stand_in = create_autospec(module.HfApi)
        client = stand_in.return_value
        client.sent = {}

        def upload(**given: Any) -> str:
            client.sent = {path.name: path.read_bytes() for path in Path(given["folder_path"]).iterdir()}
            return "https://hub.invalid/commit/1"

        client.upload_folder.side_effect = upload
        monkeypatch.setattr(module, "HfApi", stand_in)
        return client

    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        safetensors = pytest.importorskip("safetensors.numpy")
        folder = tmp_path / "runs" / ".store" / "student"
        folder.mkdir(parents=True)
        import numpy as np

        safetensors.save_file({"w": np.ones(3, np.float32)}, folder / "weights.safetensors")
        return folder / "weights.safetensors"

    def test_weights_graph_card_and_contract_go_up_in_one_commit(
        self, client: Any, bundle: Bundle, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs = weights.parents[2]
        assert cli.main(["push", str(bundle.root), "--repo", "me/cells", "--runs", str(runs), "--engine", "--private"]) == 0
        assert "https://hub.invalid/commit/1" in capsys.readouterr().out
        client.create_repo.assert_called_once_with("me/cells", private=True, exist_ok=True, repo_type="model")
        assert client.upload_folder.call_count == 1
        names = set(client.sent)
        assert {"model.onnx", "model.safetensors", "README.md", "labels.txt", "preprocessing.json", "manifest.json"} <= names
        assert len([name for name in names if re.fullmatch(r"engine-.+\.onnx", name)]) == 1
        assert client.sent["model.safetensors"] == weights.read_bytes()
        assert json.loads(client.sent["preprocessing.json"])["classes"] == list(onnx_samples.CLASSES)
        for name, content in client.sent.items():
            (tmp_path / name).write_bytes(content)
        assert Bundle.load(tmp_path).manifest.engine in names  # what is downloaded is a bundle again
        card = client.sent["README.md"].decode()
        header = yaml.safe_load(card.split("---\n")[1])
        assert (header["license"], header["pipeline_tag"]) == ("apache-2.0", "object-detection")
        assert header["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.5
        assert "# cells-here" in card

    def test_the_ranges_of_a_network_trained_for_int8_go_along(self, client: Any, tmp_path: Path) -> None:
        made = samples.bundle(tmp_path / "made")
        figures: dict[str, Any] = {"split": "val", "num_images": 6, "epochs": 1, "float_map": 0.9, "post_training_map": 0.8}
        int8_training.write(made.root, Int8Training(**figures, kept=True, recipe=asdict(ort.INTEGERS), ranges={"x": (0.0, 1.0)}))
        made = write(made.root, made.manifest, [*made.manifest.files, INT8])
        assert cli.main(["push", str(made.root), "--repo", "me/cells", "--without-weights"]) == 0
        out = tmp_path / "downloaded"
        out.mkdir()
        for name, content in client.sent.items():
            (out / name).write_bytes(content)
        assert Bundle.load(out).manifest.files[INT8] == made.manifest.files[INT8]
        assert int8_training.read(out) == int8_training.read(made.root)

    def test_weights_that_are_missing_are_asked_for(self, client: Any, bundle: Bundle, tmp_path: Path, capsys: Any) -> None:
        assert cli.main(["push", str(bundle.root), "--repo", "me/cells", "--runs", str(tmp_path)]) == 2
        assert "--without-weights" in capsys.readouterr().err
        assert client.upload_folder.call_count == 0
        assert cli.main(["push", str(bundle.root), "--repo", "me/cells", "--without-weights"]) == 0
        assert "model.safetensors" not in client.sent

    def test_refusals_are_one_line(self, client: Any, bundle: Bundle, capsys: Any) -> None:
        assert cli.main(["push", str(bundle.root), "--repo", "cells", "--without-weights"]) == 2
        assert "allowed: OWNER/NAME" in capsys.readouterr().err
        errors = pytest.importorskip("huggingface_hub.errors")
        broken = next(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)  # what a broken network raises
        client.upload_folder.side_effect = broken("no route\nto host")
        assert cli.main(["push", str(bundle.root), "--repo", "me/cells", "--without-weights"]) == 4
        assert capsys.readouterr().err == "edgedistill: me/cells: the upload to the hub failed (no route to host)\n"
        client.upload_folder.side_effect = ValueError('Invalid metadata in README.md.\n- "license" must be one of [mit]')  # as it says it
        assert cli.main(["push", str(bundle.root), "--repo", "me/cells", "--without-weights"]) == 4
        assert 'refuses the model card (Invalid metadata in README.md. - "license" must be one of [mit]); pack' in capsys.readouterr().err

    def test_a_missing_client_is_named(self, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert cli.main(["push", str(bundle.root), "--repo", "me/cells", "--without-weights"]) == 2
        assert 'pip install "edgedistill[hub]"' in capsys.readouterr().err

    def test_hubs_read_the_header(self, bundle: Bundle) -> None:
        module = pytest.importorskip("huggingface_hub")
        card = module.ModelCard(hub.front_matter(bundle) + "# text")
        assert card.data.license == "apache-2.0"
        assert card.data.eval_results[0].metric_value == 0.5
