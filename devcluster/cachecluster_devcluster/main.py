"""The command `devcluster`: reads its arguments, calls one method, tells what came of it."""

import argparse
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from cachecluster_devcluster import binaries, debian, image, runtime
from cachecluster_devcluster.cluster import DevCluster

EX_USAGE = 64
DEFAULT_STATE = Path("build/devcluster")
Action = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """An argument parser that ends with the exit code of sysexits.h."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: error: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    options = parser().parse_args(arguments)
    log_to_stderr()
    action: Action = options.action
    try:
        return action(options)
    except (RuntimeError, LookupError, ValueError, OSError) as error:
        sys.stderr.write(f"devcluster: {error}\n")
        return 1


def parser() -> Parser:
    """All commands with their flags."""
    top = Parser(
        prog="devcluster", description="A real Kubernetes of three nodes on this Linux machine, without Docker."
    )
    top.add_argument(
        "--state",
        type=Path,
        default=DEFAULT_STATE,
        help="folder of the cluster; each is one cluster (default: %(default)s)",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, action: Action, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.set_defaults(action=action)
        return command

    up = add("up", _up, "start the cluster, or what is missing of it")
    up.add_argument("--nodes", type=_node_count, default=3, help="number of nodes (default: %(default)s)")
    up.add_argument(
        "--image", type=Path, action="append", default=[], help="image archive for the nodes; may be repeated"
    )
    add("down", _down, "remove the cluster and all its traces")
    add("status", _status, "tell what runs; exit code 1 when something does not")
    add("cut", _each(DevCluster.cut), "pull the network cable of a node").add_argument("node")
    add("heal", _each(DevCluster.heal), "put the network cable of a node back").add_argument("node")
    add("kill", _each(DevCluster.kill), "end everything on a node at once").add_argument("node")
    add("start", _each(DevCluster.start), "start a killed node and wait until it is Ready").add_argument("node")
    add("api-stop", _each(DevCluster.stop_api), "kill the API server")
    add("api-start", _each(DevCluster.start_api), "start the API server and wait until it is ready")
    add("api-freeze", _each(DevCluster.freeze_api), "freeze the API server: connections stay, nobody answers")
    add("api-thaw", _each(DevCluster.thaw_api), "let a frozen API server go on")
    add("load-image", _load_image, "load an image archive into every node").add_argument("archive", type=Path)
    execute = add("exec-in", _exec_in, "run a command on a node, or with the network of the hub")
    execute.add_argument("node", help="a node, or hub: a client in the cluster's network with its DNS and Services")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="the command")
    add("kubeconfig", _kubeconfig, "print the path of the kubeconfig for this machine")
    _add_tools(add)
    return top


def _add_tools(add: Callable[[str, Action, str], argparse.ArgumentParser]) -> None:
    deps = add("deps", _deps, "install the Debian packages that are missing")
    deps.add_argument("--check", action="store_true", help="only name them; exit code 1 when there are any")
    deps.add_argument(
        "--for", dest="purpose", choices=debian.PURPOSES, default="cluster", help="what they are for (default: all)"
    )
    add("binaries", _binaries, "build the Go programs that are not in the cache yet (ten minutes the first time)")
    build = add("image", _image, "build the image archive of CacheCluster from this checkout")
    build.add_argument(
        "--out", type=Path, default=image.DEFAULT_ARCHIVE, help="archive to write (default: %(default)s)"
    )
    build.add_argument("--tag", default=image.DEFAULT_TAG, help="name of the image (default: %(default)s)")
    build.add_argument("--lock", action="store_true", help="write requirements-image.lock anew instead")


def _node_count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of nodes from 1 to 9")
    return int(text)


def _each(method: Callable[..., object]) -> Action:
    """An action that calls a method of the cluster, with the node when the command has one."""

    def action(options: argparse.Namespace) -> int:
        cluster = DevCluster(options.state)
        method(cluster, *([options.node] if "node" in options else []))
        return 0

    return action


def _up(options: argparse.Namespace) -> int:
    cluster = DevCluster(options.state)
    cluster.up(options.nodes, options.image)
    sys.stdout.write(f"export KUBECONFIG={cluster.kubeconfig}\n")
    return 0


def _down(options: argparse.Namespace) -> int:
    sys.stdout.write("removed\n" if DevCluster(options.state).down() else "nothing to remove\n")
    return 0


def _status(options: argparse.Namespace) -> int:
    status = DevCluster(options.state).status()
    if not status.running:
        sys.stdout.write("not running\n")
        return 1
    sys.stdout.write(f"API server  {'ready' if status.api_ready else 'not ready'}  127.0.0.1:{status.api_port}\n")
    for node in status.nodes:
        words = f"{'running' if node.running else 'killed'}, {'Ready' if node.ready else 'not Ready'}"
        sys.stdout.write(f"{node.name}  {words}\n")
    return 0 if status.api_ready and all(node.running and node.ready for node in status.nodes) else 1


def _load_image(options: argparse.Namespace) -> int:
    DevCluster(options.state).load_image(options.archive)
    return 0


def _exec_in(options: argparse.Namespace) -> int:
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise ValueError("exec-in: no command after --")
    cluster = DevCluster(options.state)
    command = cluster.hub_command(argv) if options.node == "hub" else cluster.node_command(options.node, argv)
    os.execvp(command[0], command)


def _kubeconfig(options: argparse.Namespace) -> int:
    sys.stdout.write(f"{DevCluster(options.state).kubeconfig}\n")
    return 0


def _deps(options: argparse.Namespace) -> int:
    packages = debian.PURPOSES[options.purpose]
    if options.check:
        wanted = debian.missing(packages)
        sys.stdout.write("".join(f"{name}\n" for name in wanted))
        return 1 if wanted else 0
    debian.install(packages)
    return 0


def _binaries(options: argparse.Namespace) -> int:
    for program in (binaries.KUBE, binaries.COREDNS, binaries.HELM):
        sys.stdout.write(f"{binaries.binary(program)}\n")
    return 0


def _image(options: argparse.Namespace) -> int:
    if options.lock:
        (image.ROOT / "requirements-image.lock").write_text(runtime.image_lock(image.ROOT))
        return 0
    built = image.build(options.out, options.tag)
    sys.stdout.write(f"{built}\n")
    return 0


def log_to_stderr() -> None:
    """Progress goes to standard error, each line with the seconds since the start."""
    started = time.monotonic()

    class Elapsed(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"[{time.monotonic() - started:6.1f}s] {super().format(record)}"

    handler = logging.StreamHandler()
    handler.setFormatter(Elapsed("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


if __name__ == "__main__":
    sys.exit(main())
