"""What gpu-check.sh does, once it has found its binaries: correctness against the CPU, then speed beside PyTorch.

Prints Markdown, also into --report. Everything it trains on is genir's own: the bundled corpus, random weights.
"""

import argparse
import contextlib
import json
import math
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "benches" / "side_by_side"))
from peers import PYTORCH_PEER, Peer, PeerError, has_torch  # noqa: E402

STEPS = 50
SMALL = "64,128,1,3"
# Steps of a few milliseconds are repeated so long on a GPU: nvidia-smi's figure of its use is a mean of its own.
LEAST_SECONDS = 4.0
# How far a number may be from the CPU's, as a share of it. In f32 a GPU adds up in another order, and may round the
# factors of a product to TF32's 11 bits. bf16 has 8 bits, 2^-9 of a factor at most and at random. With every product
# with a weight rounded so on the CPU, this same check found 0.09% for the step furthest off, 0.004% for their mean and
# 0.43% for logits, 2% of the probes' numbers off by more than 5%: allowed are a few times as much, since Adam's
# updates spread what is off. A kernel that computes something else is off by whole numbers.
TOLERANCES = {
    "f32": {"loss of a step": 0.005, "mean loss": 0.001, "logits": 0.005, "probes": 0.02, "probes off": 0.02},
    "bf16": {"loss of a step": 0.01, "mean loss": 0.002, "logits": 0.02, "probes": 0.05, "probes off": 0.06},
}


class CheckError(Exception):
    """A command failed: nothing can be said about what it should have shown."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genir", required=True, type=Path, help="filled in by gpu-check.sh")
    parser.add_argument("--step-server", required=True, type=Path, help="filled in by gpu-check.sh")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to go through it without a GPU")
    parser.add_argument("--small", action="store_true", help="a tiny shape in place of T5's, and few rounds")
    parser.add_argument("--only", choices=("correctness", "speed"))
    parser.add_argument("--shape", nargs="+", default=["t5-small", "t5-base", "t5-large"])
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="examples a step; several give several tables")
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each process")
    parser.add_argument("--warm-up", type=int, default=10, help="steps before them: kernels are compiled and tried")
    parser.add_argument("--patience", type=float, default=900, help="seconds until a process must be ready for its first timed step")
    parser.add_argument("--report", type=Path, help="a file that gets what is printed")
    arguments = parser.parse_args()
    if arguments.small:
        arguments.shape, arguments.rounds, arguments.warm_up = [SMALL], 3, 1

    report = Report(arguments.report)
    report.say(f"# genir on {card(arguments.device)}\n")
    report.say(f"{version(arguments.genir)}, device `{arguments.device}`, {time.strftime('%Y-%m-%d')}\n")
    failed = []
    try:
        if arguments.only != "speed":
            failed = correctness(arguments, report)
        if arguments.only != "correctness":
            speed(arguments, report)
    except (CheckError, PeerError) as error:
        sys.exit(f"error: {error}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


class Report:
    """Lines for the reader, and for a file."""

    def __init__(self, path: Path | None):
        self.path = path
        if path:
            path.write_text("")

    def say(self, text: str = ""):
        print(text, flush=True)
        if self.path:
            with self.path.open("a") as file:
                file.write(text + "\n")

    def table(self, heading: list[str], rows: list[list[str]]):
        for row in [heading, ["---"] * len(heading), *rows]:
            self.say(f"| {' | '.join(row)} |")
        self.say()


# --- correctness -------------------------------------------------------------------------------------------------------


@dataclass
class Check:
    """One promise, and what was found."""

    what: str
    found: str
    allowed: str
    holds: bool


def correctness(arguments: argparse.Namespace, report: Report) -> list[str]:
    """The checks that failed. All run, so that one look says what is wrong."""
    device = arguments.device
    # The plain computation first: where it fails too, rounding is not what is wrong.
    devices = {"f32": f"{device}+f32", "bf16": device} if device.startswith("cuda") else {"f32": device}
    checks = []
    with tempfile.TemporaryDirectory(prefix="genir-gpu-check-") as home:
        runs = Runs(arguments.genir, Path(home))
        on_cpu = runs.train("cpu", "cpu")
        checkpoint = runs.checkpoint("cpu")
        rankings, probes = runs.rankings(checkpoint, "cpu", "cpu"), runs.probes(checkpoint, "cpu")
        # All at once: on a new machine each spends minutes on compiling kernels, on one core.
        with ThreadPoolExecutor(max_workers=5 * len(devices)) as pool:
            asked = {
                precision: {
                    "losses": pool.submit(runs.train, precision, name),
                    "rankings": pool.submit(runs.rankings, checkpoint, name, precision),
                    "probes": pool.submit(runs.probes, checkpoint, name),
                    "held": pool.submit(runs.train, f"restricted-{precision}", name, checkpoint),
                    "fetched": pool.submit(runs.train, f"fetched-{precision}", name, checkpoint, ["cache.memory=0"]),
                }
                for precision, name in devices.items()
            }
        for precision, of in asked.items():
            tolerance = TOLERANCES[precision]
            with found(f"loss over {STEPS} steps, {precision}", checks):
                checks += compared_losses(of["losses"].result(), on_cpu, precision, tolerance)
            with found(f"logits, {precision}", checks):
                checks += compared_logits(of["rankings"].result(), rankings, precision, tolerance)
            with found(f"probes, {precision}", checks):
                checks += compared_probes(of["probes"].result(), probes, precision, tolerance)
            with found(f"states from a file, {precision}", checks):
                checks += fetched_states(of["fetched"].result(), of["held"].result(), precision, tolerance)
            with found(f"frozen weights, {precision}", checks):
                checks += frozen_weights(checkpoint, runs.checkpoint(f"restricted-{precision}"), precision)
    report.say("## The same numbers as on the CPU\n")
    rows = [[check.what, check.found, check.allowed, "yes" if check.holds else "**NO**"] for check in checks]
    report.table(["check", "found", "allowed", "holds"], rows)
    return [check.what for check in checks if not check.holds]


@contextlib.contextmanager
def found(what: str, checks: list[Check]):
    """Notes a command that failed as a check that does not hold: the others still say what they found."""
    try:
        yield
    except (CheckError, OSError) as error:
        print(f"warning: {what}: {error}", file=sys.stderr)
        checks.append(Check(what, str(error).splitlines()[0][:200], "an end without error", False))


@dataclass
class Runs:
    """genir's verbs, in a directory of its own."""

    genir: Path
    home: Path

    def train(self, name: str, device: str, base: Path | None = None, more: list[str] | None = None) -> list[float]:
        """The loss of each step of a run of STEPS steps; restricted, and on from `base`, where that is given."""
        overrides = [f"run.directory={self.home / name}", f"run.device={device}", "~train.epochs", f"train.steps={STEPS}"]
        overrides += ["train.batch_size=32", "schedule.warmup_steps=10", "log.every_steps=1", "~probes", "~evaluate.every_epochs"]
        overrides += ["evaluate.queries=100", "evaluate.memorisation=0", f"cache.directory={self.home / name}-cache", *(more or [])]
        if base:
            overrides += [f"model.base={base}", "model.init=pretrained", 'trainable.select=["restricted"]']
        self.run("train", "recipes/quickstart.toml", *overrides)
        lines = [json.loads(line) for line in (self.home / name / "metrics.jsonl").read_text().splitlines()]
        losses = [line["loss/train"] for line in lines if "loss/train" in line]
        if len(losses) != STEPS:
            raise CheckError(f"{name}: {len(losses)} losses were logged, not {STEPS}")
        return losses

    def checkpoint(self, name: str) -> Path:
        return self.home / name / "checkpoints" / "latest"

    def rankings(self, checkpoint: Path, device: str, name: str) -> dict[tuple[str, str], float]:
        """Logits by query and docid: all docids of each query."""
        file = self.home / f"{name}.trec"
        self.run("eval", checkpoint, "--device", device, "--queries", "50", "--depth", "1000000", "--run", file)
        fields = [line.split() for line in file.read_text().splitlines()]
        return {(query, docid): float(score) for query, _, docid, _, score, _ in fields}

    def probes(self, checkpoint: Path, device: str) -> list:
        sample = ["--queries", "50", "--over", "all", "--format", "json"]
        return json.loads(self.run("probe", checkpoint, "--device", device, *sample))

    def run(self, *words) -> str:
        command = [str(self.genir), *map(str, words)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode != 0:
            raise CheckError(f"{' '.join(command)}: status {done.returncode}\n{done.stderr[-2000:]}")
        return done.stdout


def compared_losses(found: list[float], expected: list[float], precision: str, tolerance: dict) -> list[Check]:
    apart = max(abs(one - other) / other for one, other in zip(found, expected))
    mean = abs(statistics.mean(found) / statistics.mean(expected) - 1)
    learnt = expected[-1] < expected[0] and found[-1] < found[0]
    name = f"loss over {STEPS} steps, {precision}"
    return [
        Check(f"{name}: the step furthest off", share(apart), share(tolerance["loss of a step"]), apart <= tolerance["loss of a step"]),
        Check(f"{name}: its mean", share(mean), share(tolerance["mean loss"]), mean <= tolerance["mean loss"]),
        Check(f"{name}: falls", f"{found[0]:.3f} to {found[-1]:.3f} (CPU {expected[-1]:.3f})", "falls", learnt),
    ]


def fetched_states(found: list[float], expected: list[float], precision: str, tolerance: dict) -> list[Check]:
    """States that a batch fetches from a file are those that lie in the card's memory."""
    apart = max(abs(one - other) / other for one, other in zip(found, expected))
    allowed = tolerance["loss of a step"]
    return [Check(f"states from a file, {precision}: the step furthest off", share(apart), share(allowed), apart <= allowed)]


def compared_logits(found: dict, expected: dict, precision: str, tolerance: dict) -> list[Check]:
    if found.keys() != expected.keys():
        return [Check(f"logits, {precision}", "other queries or docids", "the same", False)]
    scale = max(abs(score) for score in expected.values())
    apart = max(abs(found[key] - expected[key]) for key in expected) / scale
    allowed = tolerance["logits"]
    return [Check(f"logits of {len(expected):,} docids, {precision}", share(apart), f"{share(allowed)} of the largest", apart <= allowed)]


def compared_probes(found: list, expected: list, precision: str, tolerance: dict) -> list[Check]:
    """All numbers of all probes, each against the largest of its own list: those near 0 have no size of their own."""
    mine, theirs = dict(numbers(found, "")), dict(numbers(expected, ""))
    if mine.keys() != theirs.keys():
        return [Check(f"probes, {precision}", f"{len(mine)} numbers", f"the CPU's {len(theirs)}", False)]
    sizes: dict[str, float] = {}
    for path, value in theirs.items():
        group = path.rpartition("[")[0]
        sizes[group] = max(sizes.get(group, 0.0), abs(value))
    off = [path for path, value in theirs.items() if abs(mine[path] - value) > tolerance["probes"] * (sizes[path.rpartition("[")[0]] or 1.0)]
    part = len(off) / max(1, len(theirs))
    # Some are allowed: ranks and counts jump where two logits nearly tie.
    allowed = tolerance["probes off"]
    what = f"probes, {precision}: numbers off by more than {share(tolerance['probes'])}"
    return [Check(what, f"{len(off)} of {len(theirs):,}" + (f", such as {off[0]}" if off else ""), share(allowed), part <= allowed)]


def numbers(value, path: str):
    """The numbers in a JSON value with their places; not those that tell when and how fast."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, (int, float)):
        if math.isfinite(value):
            yield path, float(value)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from numbers(item, f"{path}[{index}]")
    else:
        for key, item in value.items():
            if "second" not in key:
                yield from numbers(item, f"{path}.{key}")


def frozen_weights(before: Path, after: Path, precision: str) -> list[Check]:
    """A restricted run changes its own tensors, and of the others not one bit."""
    old, new = tensors(before / "model.safetensors"), tensors(after / "model.safetensors")
    layers = 1 + max(int(name.split(".")[2]) for name in old if name.startswith("decoder.block."))
    first, second = ((layers * end + 12) // 24 for end in (7, 18))

    def is_trained(name: str) -> bool:
        parts = name.split(".")
        if parts[:2] != ["decoder", "block"]:
            return False
        layer, component = int(parts[2]), int(parts[4])
        return (component == 1 and layer >= first) or (component == 2 and layer >= second)

    changed = {name for name in old if old[name] != new.get(name)}
    trained = {name for name in old if is_trained(name)}
    wrong = sorted(changed ^ trained)
    found = f"{len(changed)} of {len(old)} tensors changed" + (f"; wrong: {', '.join(wrong[:3])}" if wrong else "")
    return [Check(f"frozen weights, {precision}: identical to the bit", found, f"the {len(trained)} trained", not wrong)]


def tensors(path: Path) -> dict[str, bytes]:
    """The bytes of each tensor of a safetensors file."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    body = memoryview(data)[8 + length :]
    return {name: bytes(body[slice(*entry["data_offsets"])]) for name, entry in header.items() if name != "__metadata__"}


def share(value: float) -> str:
    return f"{100 * value:.3g}%"


# --- speed -------------------------------------------------------------------------------------------------------------


def speed(arguments: argparse.Namespace, report: Report):
    on_gpu = arguments.device.startswith("cuda")
    with_torch = has_torch()
    if not with_torch:
        report.say("PyTorch and transformers are not here: genir alone is measured.\n")
    for batch in arguments.batch:
        # What is started together must fit in the card's memory together.
        measured = {}
        for group in grouped_commands(arguments, batch, with_torch):
            measured |= measured_alone(group, arguments, on_gpu)
        rows = []
        for shape in arguments.shape:
            full = measured.get(f"{shape}: transformers, full")
            of_shape = [(name, found) for name, found in measured.items() if name.startswith(f"{shape}: ")]
            rows += [row(shape, name.removeprefix(f"{shape}: "), found, batch, full) for name, found in of_shape]
        report.say(f"## A step of {batch} examples of 32 tokens\n")
        memory = "peak MiB of the card" if on_gpu else "peak MiB"
        report.table(["shape", "process", "ms a step", "examples/s", memory, "GPU used", "time against transformers, full"], rows)


def grouped_commands(arguments: argparse.Namespace, batch: int, with_torch: bool) -> list[dict[str, list[str]]]:
    """What is measured, by name: genir, transformers, and transformers compiled."""
    groups: list[dict[str, list[str]]] = [{}, {}, {}]
    for shape in arguments.shape:
        for name, command in commands(arguments, shape, batch, with_torch).items():
            groups[0 if name.startswith("genir") else 2 if "--compile" in command else 1][f"{shape}: {name}"] = command
    # The quickest to start first: what comes last is lost where time is short.
    return [group for group in (groups[1], groups[0], groups[2]) if group]


def commands(arguments: argparse.Namespace, shape: str, batch: int, with_torch: bool) -> dict[str, list[str]]:
    same = [shape, "--device", arguments.device, "--batch", str(batch), "--warm-up", str(arguments.warm_up)]
    same += ["--words", "500", "--documents", "100"] if arguments.small else []
    found = {f"genir, {mode}": [str(arguments.step_server), mode, *same] for mode in ("full", "restricted", "cached", "cached+docids")}
    if with_torch:
        bf16 = ["--bf16"]
        for mode, said in [("full", "full"), ("restricted", "the same frozen")]:
            theirs = [sys.executable, str(PYTORCH_PEER), mode, *same, *bf16]
            found[f"transformers, {said}"] = theirs
            found[f"transformers, {said}, torch.compile"] = [*theirs, "--compile"]
    return found


@dataclass
class Measured:
    """One process while no other computed."""

    seconds: float
    peak_mib: int | None
    used: float | None


def measured_alone(commands: dict[str, list[str]], arguments: argparse.Namespace, on_gpu: bool) -> dict[str, Measured]:
    """Starts all processes, which compile their kernels meanwhile, then times each while the others wait."""
    found = {}
    begun = time.monotonic()
    peers = {name: Peer.start(name, command) for name, command in commands.items()}
    try:
        for name, peer in peers.items():
            try:
                ready_within(peer, begun + arguments.patience - time.monotonic())
            except PeerError as error:
                # torch.compile may want a compiler that is not there; the others can still be measured.
                print(f"warning: {error}", file=sys.stderr)
                peer.process.kill()
        print(f"ready after {time.monotonic() - begun:.0f} s", file=sys.stderr)
        for name, peer in peers.items():
            if peer.process.poll() is None:
                found[name] = timed(peer, arguments.rounds, on_gpu)
    finally:
        for peer in peers.values():
            if peer.process.poll() is None:
                peer.process.kill()
            peer.process.wait()
    return found


def ready_within(peer: Peer, seconds: float):
    """Waits until the process is ready for its first timed step."""
    late = threading.Timer(max(1.0, seconds), peer.process.kill)
    late.start()
    try:
        peer.wait_until_ready()
    finally:
        late.cancel()


def timed(peer: Peer, rounds: int, on_gpu: bool) -> Measured:
    watch = Watch(peer.process.pid) if on_gpu else None
    begun = time.monotonic()
    while len(peer.seconds) < rounds or (on_gpu and time.monotonic() < begun + LEAST_SECONDS):
        peer.step()
    peak, used = watch.end() if watch else (None, None)
    peer.quit()
    return Measured(statistics.median(peer.seconds), peak if on_gpu else peer.peak_mib, used)


def row(shape: str, name: str, found: Measured, batch: int, full: Measured | None) -> list[str]:
    against = "?" if full is None else f"{found.seconds / full.seconds:.3f} (1/{full.seconds / found.seconds:.1f})"
    used = "-" if found.used is None else f"{found.used:.0f}%"
    return [shape, name, f"{1e3 * found.seconds:.2f}", f"{batch / found.seconds:,.0f}", "?" if found.peak_mib is None else f"{found.peak_mib:,}", used, against]


class Watch:
    """Asks nvidia-smi for a process's memory and the card's use until told to end. No other process may compute."""

    def __init__(self, process: int):
        self.process = process
        self.readings: list[tuple[int | None, int]] = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.ending.wait(0.2):
            self.readings.append((self.memory(), int(ask("gpu", "utilization.gpu")[0])))

    def end(self) -> tuple[int | None, float | None]:
        """The most memory, MiB, and the mean use, %."""
        self.ending.set()
        self.thread.join()
        memory = [memory for memory, _ in self.readings if memory is not None]
        return max(memory, default=None), statistics.mean(used for _, used in self.readings) if self.readings else None

    def memory(self) -> int | None:
        """None where nvidia-smi does not tell it by process."""
        lines = [line.split(",") for line in ask("compute-apps", "pid,used_gpu_memory")]
        known = {int(process): memory.strip() for process, memory in lines}
        memory = known.get(self.process, "")
        return int(memory) if memory.isdigit() else None


def ask(what: str, fields: str) -> list[str]:
    asked = ["nvidia-smi", f"--query-{what}={fields}", "--format=csv,noheader,nounits"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()


def card(device: str) -> str:
    """The card's name with its driver; the processor's where there is none."""
    if device.startswith("cuda"):
        if shutil.which("nvidia-smi") is None:
            sys.exit("error: nvidia-smi is not there: is this a machine with an NVIDIA GPU?")
        asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        done = subprocess.run(asked, capture_output=True, text=True)
        if done.returncode != 0 or not done.stdout.strip():
            sys.exit(f"error: nvidia-smi finds no GPU: {done.stdout}{done.stderr}")
        return done.stdout.splitlines()[0]
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return (models[0].split(":", 1)[1].strip() if models else "a CPU") + " (no GPU: a rehearsal)"


def version(genir: Path) -> str:
    done = subprocess.run([str(genir), "--version"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"error: {genir} does not run: {done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
