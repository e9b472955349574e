"""Random and mutated requests against a running server: a clear error each, and nothing else happens.

Example: python tests/serving/hostile_requests.py bundles/mlp_medium-first --count 100000

The server is a process of its own. It records every file and folder that Python opens while the requests run;
ONNX files are opened by ONNX Runtime at load time only. Prints JSON, and exits with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from serving import rpc
from serving.bundle import Bundle, discover
from serving.client import Client
from serving.messages import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    HealthCheckRequest,
    PredictRequest,
)
from serving.repository import Limits
from serving.server import Server
from serving.tensors import encode

LIMITS = Limits(max_rows=10_000, max_bytes=4 * 2**20, max_json_bytes=2**20)

CLEAN_GRPC = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}
CLEAN_HTTP = {200, 400, 404, 405, 411, 413, 414, 431, 501, 503, 505}
PARTS = 9  # after each, the state of the server is noted

TRICKS = [
    "../../../../etc/passwd",
    "..",
    ".",
    "/etc/passwd",
    "..\\..\\windows",
    "file:///etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "{name}/../{name}",
    "{name}/1",
    "{name}\x00",
    "{name} ",
    "~root",
    "$(id)",
    "`id`",
    "{name}'; --",
    "\N{RIGHT-TO-LEFT OVERRIDE}",
    "x" * 5000,
    "",
    "con",
    "__class__",
    "{0.__class__}",
]


# -- the server --------------------------------------------------------------------------------------------


def serve(folder: Path) -> None:
    """Serve until the standard input ends; then print what was opened after its first line."""
    opened: list[str] = []
    armed = False

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if armed and event in {"open", "os.listdir", "os.scandir"} and not isinstance(arguments[0], int):
            opened.append(os.fsdecode(arguments[0]))

    sys.addaudithook(watch)
    with Server(
        discover([folder]), rest_port=0, grpc_port=0, limits=LIMITS, watch=[folder], reload_seconds=1
    ) as server:
        print(json.dumps(server.describe()), flush=True)
        sys.stdin.readline()
        armed = True
        sys.stdin.read()
        armed = False
    root = folder.resolve()
    outside = sorted({path for path in opened if not Path(path).resolve().is_relative_to(root)})
    print(json.dumps({"opened": len(opened), "outside": outside}), flush=True)


def state(pid: int) -> dict[str, int]:
    """Return memory [kB], threads and open files of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return {
        "rss_kb": int(values["VmRSS"].split()[0]),
        "threads": int(values["Threads"]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


# -- the requests ------------------------------------------------------------------------------------------


class Attacker:
    """Makes and sends requests from a random generator of its own."""

    def __init__(self, bundle: Bundle, place: dict[str, Any], seed: int) -> None:
        self.bundle = bundle
        self.signature = bundle.signatures["serving_default"]
        self.random = random.Random(seed)
        self.address = (place["host"], place["rest_port"])
        self.channel = grpc.insecure_channel(
            f"{place['host']}:{place['grpc_port']}", options=[("grpc.max_send_message_length", -1)]
        )
        self.connection = http.client.HTTPConnection(*self.address, timeout=30)

    def close(self) -> None:
        self.channel.close()
        self.connection.close()

    def send(self) -> tuple[str, str]:
        """Send one request; return the kind of it and what is wrong with the answer, or an empty string."""
        attack = self.random.choices(
            [self.predict, self.bytes_, self.others, self.json_, self.path, self.raw], [6, 5, 2, 6, 3, 2]
        )[0]
        return attack.__name__, attack()

    # -- gRPC --

    def name(self) -> str:
        return self.random.choice(TRICKS).replace("{name}", self.bundle.name)

    def call(self, path: str, body: bytes) -> str:
        try:
            self.channel.unary_unary(path)(body, timeout=30)
        except grpc.RpcError as error:
            status, words = error.code().name, error.details()
            if status not in CLEAN_GRPC:
                return f"{path}: {status}: {words}"
            if not words or "\n" in words or len(words) > 500 or "Traceback" in words:
                return f"{path}: unclear: {words!r}"
        return ""

    def inputs(self, rows: int) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(
                np.random.default_rng(self.random.getrandbits(32)).normal(
                    size=[rows if size < 0 else size for size in spec.shape]
                ),
                spec.dtype,
            )
            for name, spec in self.signature.inputs.items()
        }

    def request(self) -> Any:
        request = PredictRequest()
        request.model_spec.name = self.bundle.name
        for name, array in self.inputs(self.random.choice([0, 1, 2, 7, 300])).items():
            request.inputs[name].CopyFrom(encode(array))
        return request

    def predict(self) -> str:
        """A well-formed message with some fields changed."""
        request, choose = self.request(), self.random
        for _ in range(choose.randint(1, 3)):
            tensor = request.inputs[choose.choice(sorted(self.signature.inputs))]
            match choose.randrange(14):
                case 0:
                    request.model_spec.name = self.name()
                case 1:
                    request.model_spec.version.value = choose.choice([-1, 0, 7, 2**62, -(2**63)])
                case 2:
                    request.model_spec.signature_name = self.name()
                case 3:
                    request.model_spec.version_label = self.name()
                case 4:
                    tensor.dtype = choose.choice([0, 2, 3, 7, 8, 9, 10, 14, 19, 20, 23, 101, 9999, -1])
                case 5:
                    del tensor.tensor_shape.dim[:]
                    for _ in range(choose.randint(0, 12)):
                        tensor.tensor_shape.dim.add(size=choose.choice([-1, 0, 1, 5, 10**6, 2**40, 2**62]))
                case 6:
                    tensor.tensor_content = tensor.tensor_content[: choose.randint(0, 30)]
                case 7:
                    values = np.array([np.nan, np.inf, -np.inf, 3e38, 1e-45], np.float32)
                    size = len(tensor.tensor_content) // 4
                    tensor.tensor_content = np.resize(values, size).tobytes()
                case 8:
                    tensor.tensor_content = b""
                    tensor.float_val.extend([1.0] * choose.randint(0, 3000))
                case 9:
                    request.inputs[self.name()].CopyFrom(tensor)
                case 10:
                    del request.inputs[choose.choice(sorted(request.inputs))]
                    if not request.inputs:
                        break
                case 11:
                    request.output_filter.append(self.name())
                case 12:
                    tensor.tensor_shape.unknown_rank = True
                case 13:
                    tensor.ClearField("tensor_content")
                    tensor.string_val.append(b"\xff" * 100)
        return self.call(rpc.PREDICT, request.SerializeToString())

    def bytes_(self) -> str:
        """A message whose bytes are damaged."""
        choose = self.random
        body = bytearray(self.request().SerializeToString())
        match choose.randrange(5):
            case 0:
                del body[choose.randrange(len(body) + 1) :]
            case 1:
                for _ in range(choose.randint(1, 20)):
                    body[choose.randrange(len(body))] = choose.randrange(256)
            case 2:
                at = choose.randrange(len(body))
                body[at:at] = choose.randbytes(choose.randint(1, 200))
            case 3:
                body = bytearray(choose.randbytes(choose.randint(0, 400)))
            case 4:  # groups and messages within each other, thousands deep
                body = bytearray(choose.choice([b"\x0b", b"\x12\x7f", b"\x0a\xff\xff\x03"]) * 3000)
        return self.call(choose.choice([rpc.PREDICT, rpc.METADATA, rpc.STATUS, rpc.CHECK]), bytes(body))

    def others(self) -> str:
        """The other calls, and calls that do not exist."""
        choose, name = self.random, self.name()
        spec = {"name": name, "signature_name": name}
        path, message = choose.choice(
            [
                (rpc.METADATA, GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])),
                (rpc.METADATA, GetModelMetadataRequest(model_spec={"name": self.bundle.name})),
                (rpc.STATUS, GetModelStatusRequest(model_spec=spec)),
                (rpc.CHECK, HealthCheckRequest(service=name)),
                ("/tensorflow.serving.PredictionService/Regress", PredictRequest()),
                ("/tensorflow.serving.ModelService/HandleReloadConfigRequest", PredictRequest()),
                ("/x", PredictRequest()),
            ]
        )
        return self.call(path, message.SerializeToString())

    # -- REST --

    def http(self, method: str, path: str, body: bytes | None) -> str:
        try:
            # putrequest rejects what a hostile client would send; the path is quoted only where it must be
            self.connection.request(method, "".join(c if "!" <= c <= "~" else "%00" for c in path), body)
            response = self.connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection.close()
            return f"{method} {path[:80]}: {type(error).__name__} {error}"
        if response.will_close:
            self.connection.close()
        return self.judge(response.status, text, f"{method} {path[:80]}", method == "HEAD")

    def judge(self, status: int, text: bytes, what: str, empty: bool = False) -> str:
        if status not in CLEAN_HTTP:
            return f"{what}: {status} {text[:200]!r}"
        if status != 200 and not empty:
            try:
                words = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError):
                return f"{what}: unclear {status} {text[:200]!r}"
            if not words or "\n" in words or "Traceback" in words:
                return f"{what}: unclear {words!r}"
        return ""

    def value(self, depth: int = 0) -> Any:
        choose = self.random
        simple = [None, True, -1, 0.5, 1e308, 10**30, "x", "NaN", "../x", [], {}, [[]], [1, [2]], {"a": 1}]
        if depth > 3 or choose.random() < 0.5:
            return choose.choice(simple)
        if choose.random() < 0.6:
            return [self.value(depth + 1) for _ in range(choose.randint(0, 5))]
        return {self.name()[:20]: self.value(depth + 1) for _ in range(choose.randint(0, 4))}

    def json_(self) -> str:
        """A body for :predict that is changed, nested or not JSON at all."""
        choose = self.random
        content: Any = {"inputs": {key: array.tolist() for key, array in self.inputs(2).items()}}
        name = choose.choice(sorted(self.signature.inputs))
        body: bytes | None = None
        match choose.randrange(12):
            case 0:
                content["inputs"][name] = self.value()
            case 1:
                content = {"instances": self.value()}
            case 2:
                content = {"instances": [{key: self.value() for key in self.signature.inputs}] * 2}
            case 3:
                content = self.value()
            case 4:
                content["signature_name"] = choose.choice([self.name(), self.value()])
            case 5:
                depth = choose.choice([100, 1000, 100_000])
                body = choose.choice([b"[" * depth, b"[" * depth + b"]" * depth, b'{"inputs":' * depth])
            case 6:
                word = choose.choice(["NaN", "Infinity", "-Infinity", "1e999", "9" * 6000, "1_0", "0x1", "'"])
                body = json.dumps(content).encode().replace(b"[[", b"[[" + word.encode() + b",", 1)
            case 7:
                body = bytearray(json.dumps(content).encode())  # type: ignore[assignment]
                for _ in range(choose.randint(1, 10)):
                    body[choose.randrange(len(body))] = choose.randrange(256)  # type: ignore[index]
                body = bytes(body)  # type: ignore[arg-type]
            case 8:
                text = json.dumps(content).encode()
                body = text[: choose.randrange(len(text))]
            case 9:
                body = choose.randbytes(choose.randint(0, 500))
            case 10:
                content["inputs"] = {key: [[1.0] * 40] * 60 for key in self.signature.inputs}
            case 11:
                content[self.name()[:50]] = self.value()
        if body is None:
            body = json.dumps(content).encode()
        return self.http("POST", f"/v1/models/{self.bundle.name}:predict", body)

    def path(self) -> str:
        """Paths that try to leave the models, and methods that do not exist."""
        choose, name, trick = self.random, self.bundle.name, self.name()
        path = choose.choice(
            [
                f"/v1/models/{trick}",
                f"/v1/models/{trick}:predict",
                f"/v1/models/{name}/versions/{trick}",
                f"/v1/models/{name}/versions/{choose.choice(['-1', '0', '9' * 18, '9' * 40, '1e3'])}",
                f"/v1/models/{name}/{trick}",
                f"/v1/models/{name}:{trick}",
                f"/v1/models/{name}/metadata/{trick}",
                f"/{trick}",
                f"//{trick}",
                f"/monitoring/{trick}",
                f"/v1/models/{name}?{trick}#{trick}",
            ]
        )
        method = choose.choice(["GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "BREW"])
        return self.http(method, path, b"{}" if method == "POST" else None)

    def raw(self) -> str:
        """Bytes that are hardly HTTP."""
        choose = self.random
        start = f"POST /v1/models/{self.bundle.name}:predict HTTP/1.1\r\nHost: x\r\n".encode()
        data, answered = choose.choice(
            [
                (start + b"Content-Length: -1\r\n\r\n", True),
                (start + b"Content-Length: 1e3\r\n\r\n", True),
                (start + b"Content-Length: 99999999999\r\n\r\n", True),
                (start + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n", True),
                (start + b"\r\n", True),
                (start + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", True),
                (start + b"Content-Length: 100\r\n\r\n{}", False),
                (start + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", True),
                (start + b"X: y\r\n" * 300 + b"\r\n", True),
                (start + b"X: " + b"y" * 70_000 + b"\r\n\r\n", True),
                (b"GET " + b"/x" * 40_000 + b" HTTP/1.1\r\n\r\n", True),
                (b"GET / HTTP/9.9\r\n\r\n", True),
                (b"GET\r\n\r\n", True),
                (b"\r\n\r\n", False),
                (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", False),
                (choose.randbytes(choose.randint(1, 300)), False),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", True),
            ]
        )
        answer = b""
        try:
            with socket.create_connection(self.address, timeout=30) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                while part := connection.recv(65536):
                    answer += part
        except OSError as error:
            if answered and not answer:
                return f"raw {data[:60]!r}: {error}"
        if not answer:
            return f"raw {data[:60]!r}: no answer" if answered else ""
        head, _, text = answer.partition(b"\r\n\r\n")
        parts = head.split()
        if not head.startswith(b"HTTP/1.1 ") or not parts[1].isdigit():
            return f"raw {data[:60]!r}: {answer[:100]!r}"
        return self.judge(int(parts[1]), text, f"raw {data[:60]!r}")


# -- the run -----------------------------------------------------------------------------------------------


def run(folder: Path, count: int, seed: int, threads: int) -> dict[str, Any]:
    """Send `count` requests from some threads and return what was seen."""
    bundle = discover([folder])[0].versions[-1]
    command = [sys.executable, __file__, str(folder), "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        place = json.loads(process.stdout.readline())
        attackers = [Attacker(bundle, place, seed * 1000 + index) for index in range(threads)]

        def attack(attacker: Attacker, part: int) -> tuple[Counter[str], list[str]]:
            kinds: Counter[str] = Counter()
            problems = []
            for _ in range(part):
                kind, problem = attacker.send()
                kinds[kind] += 1
                if problem:
                    problems.append(problem)
            return kinds, problems

        def attack_all(total: int) -> tuple[Counter[str], list[str]]:
            parts = [total // threads + (index < total % threads) for index in range(threads)]
            kinds: Counter[str] = Counter()
            problems: list[str] = []
            with ThreadPoolExecutor(threads) as pool:
                for more, wrong in pool.map(attack, attackers, parts):
                    kinds += more
                    problems += wrong
            return kinds, problems

        first = max(threads, count // 10)  # modules, buffers and threads that come once
        with Client(f"{place['host']}:{place['grpc_port']}") as client:
            inputs = attackers[0].inputs(5)
            before = client.predict(bundle.name, inputs)
            warm, problems = attack_all(first)
            process.stdin.write("arm\n")
            process.stdin.flush()
            begin, at_begin = time.monotonic(), state(process.pid)
            kinds: Counter[str] = Counter()
            states = [at_begin]
            for part in range(PARTS):
                some, more = attack_all((count - first) // PARTS + (part < (count - first) % PARTS))
                kinds += some
                problems += more
                states.append(state(process.pid))
            seconds = time.monotonic() - begin
            alive = process.poll() is None
            after = client.predict(bundle.name, inputs) if alive else {}
        for attacker in attackers:
            attacker.close()
        process.stdin.close()
        files = json.loads(process.stdout.read() or '{"outside": ["?"]}')
    same = before.keys() == after.keys() and all(np.array_equal(before[key], after[key]) for key in before)
    return {
        "requests": sum((warm + kinds).values()),
        "kinds": dict(warm + kinds),
        "problems": len(problems),
        "examples": problems[:10],
        "seconds": seconds,
        "begin": at_begin,
        "end": states[-1],
        "rss_kb": [at["rss_kb"] for at in states],
        "alive": alive,
        "still_answers_the_same": same,
        **files,
    }


def main() -> None:
    """Parse the command line and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, help="bundle folder")
    parser.add_argument("--count", type=int, default=2000, help="requests")
    parser.add_argument("--seed", type=int, default=1, help="seed of the requests")
    parser.add_argument("--threads", type=int, default=4, help="clients")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.bundles)
        return
    result = run(options.bundles, options.count, options.seed, options.threads)
    print(json.dumps(result, indent=1))
    if result["problems"] or result["outside"] or not result["still_answers_the_same"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
