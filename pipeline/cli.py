"""The command line: reads arguments, prints answers, and is the only place that turns errors into messages and exit codes.

Commands are imported when they run, so `--help` is instant, and `predict`, `gate BUNDLE` and `serve` need no training code.
"""

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TypeAlias

from deploy.errors import EdgedistillError
from pipeline.terminal.answer import Answer, emit, open_closed_streams, say
from pipeline.terminal.arguments import CommandParser, Version
from pipeline.terminal.refusals import EXIT_CODES, TERMINATED, Terminated, end_by_sigterm, refusal, sigterm_raises

_FILE = ("CONFIG", "configuration file (default pipeline.yaml)")
_DOUBTFUL = "largest share of the data that may be left out or assumed, 0 to 1 (default 0.2)"
_OF_DATA = f"with --data: {_DOUBTFUL}"

Command = Callable[[argparse.Namespace], Answer]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    open_closed_streams()
    came: list[int] = []
    try:
        with sigterm_raises() as came:
            args = parser().parse_args(arguments)
            answer = _function(args.command)(args)
            emit(answer, as_json=as_json)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - unexpected errors keep their traceback
        lost = came and not isinstance(error, (EdgedistillError, KeyboardInterrupt))  # an import that it hit raises something else
        code = _refuse(Terminated() if lost else error, as_json=as_json)
        if code == TERMINATED:
            from deploy.bundles.snapshot import remove_all

            remove_all()
            end_by_sigterm()
        return code
    return answer.exit_code


def _function(name: str) -> Command:
    """The function of a command; the function and its file in pipeline/commands have the command's name."""
    function: Command = getattr(import_module(f"pipeline.commands.{name}"), name)
    return function


def _refuse(error: BaseException, *, as_json: bool) -> int:
    known = refusal(error)
    if known is None:
        traceback.print_exception(error, file=sys.stderr)
    code, line = known or (1, f"unexpected {type(error).__name__}: {error}")
    say(f"edgedistill: {line}", sys.stderr)
    if as_json:
        emit(Answer({"error": line, "exit_code": code}, ""), as_json=True)
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = CommandParser(
        prog="edgedistill",
        description="Turn labeled images into a small object detector that is compiled, measured, judged and packaged for your devices.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", nargs=0, action=Version, help="print the version and exit")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    on_files = _add_run, _add_init, _add_ablate, _add_compare, _add_check, _add_gate, _add_history, _add_report
    on_bundles = _add_build, _add_predict, _add_serve, _add_sign, _add_package, _add_push
    for add in (*on_files, *on_bundles, _add_config):
        command = add(commands)
        command.add_argument("--json", action="store_true", help="print one JSON object; logs go to stderr")
    return top


_Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"  # noqa: SLF001 - argparse has no public name for it


def _add_init(commands: _Commands) -> argparse.ArgumentParser:
    command = _command(commands, "init", "look at a folder of labeled images and at this machine, and write a pipeline.yaml that works")
    command.add_argument("data", metavar="DIR", help="folder with images and annotations in COCO's, YOLO's or VOC's layout")
    command.add_argument("--out", metavar="FILE", default="pipeline.yaml", help="the new file (default pipeline.yaml); never replaced")
    command.add_argument("--minutes", metavar="N", type=float, default=40.0, help="minutes that the run may take (default 40)")
    command.add_argument("--latency", metavar="MS", type=float, help="milliseconds that one image may take on this machine")
    command.add_argument("--max-doubtful", metavar="SHARE", type=float, default=0.2, help=_DOUBTFUL)
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device for training (default auto)")
    command.add_argument("--preview", action="store_true", help="also write a page of labeled samples next to FILE")
    return command


def _add_run(commands: _Commands) -> argparse.ArgumentParser:
    command = _configured(commands, "run", "run or reuse every stage, then judge the gates")
    command.add_argument("--until", metavar="STAGE", help="stop after this stage")
    command.add_argument(
        "--force",
        metavar="STAGE",
        help="run this stage, or one instance such as optimize:cpu-int8, again, and everything that depends on it",
    )
    command.add_argument("--dry-run", action="store_true", help="print what would run, and why; run nothing")
    return command


def _add_ablate(commands: _Commands) -> argparse.ArgumentParser:
    command = _configured(commands, "ablate", "train the student with no loss, each loss and all losses, and report each gain")
    command.add_argument("--seeds", metavar="N", type=int, default=3, help="number of seeds, counting up from the file's seed (default 3)")
    command.add_argument(
        "--unlabelled",
        metavar="N",
        type=int,
        nargs="+",
        default=[],
        help="also train with distill.unlabelled on this number of its images, one training for each number",
    )
    return command


def _add_compare(commands: _Commands) -> argparse.ArgumentParser:
    command = _configured(commands, "compare", "train the student with each distillation method and report which one helps")
    command.add_argument(
        "--seeds", metavar="N", type=int, help="number of seeds, counting up from the file's seed (default: compare.seeds)"
    )
    command.add_argument("--minutes", metavar="N", type=float, help="leave out methods and seeds until the estimate is at most this")
    command.add_argument("--share", choices=("any",), help="any: train what no other process is training, until all is done; draw nothing")
    command.add_argument("--dry-run", action="store_true", help="measure steps, print what would be trained and about how long it takes")
    command.add_argument("--status", action="store_true", help="measure steps, print how far all processes have come; train nothing")
    return command


def _add_check(commands: _Commands) -> argparse.ArgumentParser:
    purpose = "check the environment, the configuration and the data; without a pipeline.yaml, only the environment"
    return _configured(commands, "check", purpose, stored=False)


def _add_gate(commands: _Commands) -> argparse.ArgumentParser:
    purpose = "judge measurements against the gates, and compare with a kept bundle"
    command = _configured(
        commands, "gate", purpose, subject=("CONFIG|BUNDLE", "configuration file of a run, or folder of a bundle (default pipeline.yaml)")
    )
    command.usage = "%(prog)s [CONFIG|BUNDLE] [options]"
    _add_trust(command)
    command.add_argument("--reference", metavar="DIR", help="a kept bundle, or a folder of them, to compare with on this machine")
    command.add_argument("--save-reference", metavar="DIR", help="keep the bundles in this folder if every gate passed")
    command.add_argument("--data", metavar="DIR", help="with a bundle: labeled images in COCO's, YOLO's or VOC's layout")
    command.add_argument("--split", metavar="NAME", help="with --data: the split to judge on (default: the bundle's)")
    command.add_argument("--max-doubtful", metavar="SHARE", type=float, help=_OF_DATA)
    command.add_argument("--out", metavar="DIR", help="folder for gate.json, gate.xml and gate.md (default runs/<name>, of a bundle none)")
    return command


def _add_history(commands: _Commands) -> argparse.ArgumentParser:
    command = _configured(commands, "history", "show a metric over past runs, as a table and a plot")
    command.add_argument("--metric", metavar="NAME", default="map", help="a metric that gates can judge (default map)")
    command.add_argument("--target", metavar="NAME", help="show only this target")
    return command


def _add_report(commands: _Commands) -> argparse.ArgumentParser:
    return _configured(commands, "report", "draw report.html again from existing results")


def _add_build(commands: _Commands) -> argparse.ArgumentParser:
    command = _on_bundle(commands, "build", "rebuild a bundle's engine for this machine, then measure and judge it")
    command.add_argument(
        "--target",
        metavar="NAME",
        help="one of the pipeline's targets (default: the bundle's own), or auto: the fastest runtime and precision on this machine",
    )
    command.add_argument(
        "--data", metavar="DIR", help="labeled images in COCO's, YOLO's or VOC's layout; without them only latency is measured"
    )
    command.add_argument("--split", metavar="NAME", help="with --data: the split to judge on (default: the bundle's)")
    command.add_argument("--max-doubtful", metavar="SHARE", type=float, help=_OF_DATA)
    command.add_argument("--out", metavar="DIR", required=True, help="the new bundle's folder")
    return command


def _add_predict(commands: _Commands) -> argparse.ArgumentParser:
    command = _on_bundle(commands, "predict", "find objects in images with a bundle, and draw them")
    command.add_argument(
        "images",
        metavar="INPUT",
        nargs="+",
        help="images, videos, folders, patterns in quotes, lists (.txt), or - for standard input: paths, or the bytes of one image",
    )
    command.add_argument("--out", metavar="DIR", required=True, help="folder for the drawn images and predictions.json")
    command.add_argument("--score", metavar="MIN", type=float, default=0.3, help="draw boxes with at least this score (default 0.3)")
    command.add_argument("--every", metavar="N", type=int, help="every N-th frame of a video (default: one frame per second)")
    return command


def _add_serve(commands: _Commands) -> argparse.ArgumentParser:
    command = _on_bundle(commands, "serve", "serve a bundle over HTTP and gRPC")
    command.add_argument("--config", metavar="CONFIG", help="use section serve of this file")
    _add_settings(command, "set an option of section serve, such as sessions=2; repeatable")
    command.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=int, help="HTTP port (default 8000)")
    command.add_argument("--grpc-port", type=int, help="gRPC port (default: no gRPC)")
    command.add_argument("--workers", metavar="N", type=int, help="processes behind the port (default 1)")
    command.add_argument("--allow-ungated", action="store_true", help="serve even if gates did not pass, or passed on a different machine")
    command.add_argument("--check", action="store_true", help="load, warm up and test the bundle, then exit: 0 if it can be served")
    return command


def _add_sign(commands: _Commands) -> argparse.ArgumentParser:
    command = _command(commands, "sign", "sign a bundle and write where it came from, so that --trusted accepts it")
    command.add_argument("bundle", metavar="BUNDLE", help="a folder with manifest.json")
    command.add_argument("--key", metavar="FILE", help="private key in PEM (default: the identity of the person or the workflow, online)")
    command.add_argument("--runs", metavar="DIR", default="runs", help="results folder in which the bundle was made (default runs)")
    return command


def _add_package(commands: _Commands) -> argparse.ArgumentParser:
    command = _on_bundle(commands, "package", "write Dockerfiles, a Triton repository, a KServe manifest and clients for a bundle")
    command.add_argument("--out", metavar="DIR", required=True, help="the new folder")
    command.add_argument("--web", action="store_true", help="write a static page instead, which runs the graph in the browser")
    command.add_argument("--ort-web", metavar="DIR", help="folder of the npm package onnxruntime-web, for --web")
    command.add_argument("--image", metavar="NAME", help="name of the container image (default edgedistill/<model>:<sha256>)")
    return command


def _add_push(commands: _Commands) -> argparse.ArgumentParser:
    command = _on_bundle(commands, "push", "upload a bundle's weights, graph and model card to a model hub")
    command.add_argument("--repo", metavar="OWNER/NAME", required=True, help="the repository; created if it does not exist")
    command.add_argument("--weights", metavar="FILE", help="the student's weights as safetensors (default: from the store in --runs)")
    command.add_argument("--runs", metavar="DIR", default="runs", help="results folder in which the bundle was made (default runs)")
    command.add_argument("--without-weights", action="store_true", help="leave out the weights")
    command.add_argument("--engine", action="store_true", help="also upload the engine; its file name includes the machine")
    command.add_argument("--private", action="store_true", help="make a new repository private")
    return command


def _add_config(commands: _Commands) -> argparse.ArgumentParser:
    command = _configured(commands, "config", "print the configuration with all defaults filled in", stored=False)
    command.add_argument("--schema", action="store_true", help="print the JSON schema for editors instead")
    return command


def _command(commands: _Commands, name: str, purpose: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=purpose, description=purpose[0].upper() + purpose[1:] + ".", allow_abbrev=False)
    command.set_defaults(command=name)
    return command


def _on_bundle(commands: _Commands, name: str, purpose: str) -> argparse.ArgumentParser:
    command = _command(commands, name, purpose)
    command.add_argument("bundle", metavar="BUNDLE", help="a folder with manifest.json")
    _add_trust(command)
    return command


def _add_trust(command: argparse.ArgumentParser) -> None:
    text = "refuse bundles not signed with this public key, or by this identity (NAME,ISSUER); repeatable: any of them"
    command.add_argument("--trusted", metavar="KEY|IDENTITY", action="append", default=[], help=text)
    command.add_argument("--sha256", metavar="DIGEST", help="refuse the bundle if its manifest.json has a different sha256")


def _configured(
    commands: _Commands, name: str, purpose: str, *, stored: bool = True, subject: tuple[str, str] = _FILE
) -> argparse.ArgumentParser:
    command = _command(commands, name, purpose)
    command.add_argument("config", metavar=subject[0], nargs="?", default="pipeline.yaml", help=subject[1])
    _add_settings(command, "override a key, such as gates.0.min=0.5; repeatable")
    if stored:
        command.add_argument("--runs", metavar="DIR", default="runs", help="results folder (default runs)")
    return command


def _add_settings(command: argparse.ArgumentParser, purpose: str) -> None:
    command.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="settings", help=purpose)
