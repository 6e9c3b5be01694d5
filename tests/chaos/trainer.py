"""A stand-in for Axolotl: keeps the trainer's side of the contract, and the oracle's log.

Started anew hundreds of times, so it needs the standard library only and starts in a few
milliseconds (`python -I -S`). What it computes is a chain over all its steps: an attempt that
skipped some, or resumed from the wrong checkpoint, ends with another number.

    python -I -S trainer.py TRAITS_AS_JSON AXOLOTL_YAML
"""

import fcntl
import json
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Callable, Mapping
from zlib import crc32

STRAGGLER = "straggler"
"""The name (/proc/PID/comm) of the child that a trainer may leave in a session of its own."""

STRAGGLER_SECONDS = 900
"""So that even the worst failure leaves nothing behind for ever."""

PROBE = {"max_abs_difference": 0.5, "mean_abs_difference": 0.25, "kl": 0.1, "top1_agreement": 0.7}
"""What the plugin would have measured of an adapter that changes its model."""

TEMPLATES = ("adapter_config.json", "optimizer.pt", "scheduler.pt", "rng_state.pth")
"""Files of a checkpoint that are the same at every step."""

WEIGHTS = "adapter_model.safetensors"
SAVE_SECONDS = 0.002
"""Between two files of a checkpoint: a kill must be able to land in the middle."""

Traits = Mapping[str, int | float | bool | str]


class Oracle:
    """This run's log outside of the service, and the lock that proves who trains."""

    def __init__(self, folder: str, run_id: str, attempt: int) -> None:
        self._attempt = attempt
        self._log = os.open(f"{folder}/{run_id}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        # held until the last process that inherits it has gone: a whole tree, not one process
        self._lock = os.open(f"{folder}/{run_id}.lock", os.O_RDWR | os.O_CREAT)

    def enter(self) -> None:
        """One look only: whoever holds the lock just now trains just now."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.note("overlap", holder=os.pread(self._lock, 100, 0).decode())
        else:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, f"attempt {self._attempt}, pid {os.getpid()}".encode(), 0)

    def note(self, event: str, **facts: object) -> None:
        """One line, in one write: a kill leaves all of it or nothing."""
        clock = time.clock_gettime(time.CLOCK_BOOTTIME)
        line = {"event": event, "attempt": self._attempt, "at": clock, **facts}
        os.write(self._log, json.dumps(line).encode() + b"\n")


class Training:
    """The steps of one attempt."""

    def __init__(self, root: str, traits: Traits, oracle: Oracle) -> None:
        self._root = root
        self._traits = traits
        self._oracle = oracle
        self._last = int(traits["steps"])
        self._step = 0
        self._state = 0

    def resume(self, checkpoint: str | None) -> None:
        """Raises when the checkpoint cannot be used, as Axolotl would."""
        if checkpoint is None:
            return
        with open(f"{checkpoint}/trainer_state.json") as file:
            self._step = json.load(file)["global_step"]
        for name in TEMPLATES:
            require_same(f"{checkpoint}/{name}", f"{self._traits['templates']}/{name}")
        self._state = read_state(f"{checkpoint}/{WEIGHTS}")

    def run(self) -> bool:
        """To the last step, or to a checkpoint because somebody asked; True at the last."""
        self._oracle.note("start", step=self._step, last=self._last, wall=time.time())
        self._progress()
        saved_at = time.monotonic()
        while self._step < self._last:
            time.sleep(float(self._traits["step_seconds"]))
            self._advance()
            if self._step < self._last and os.path.exists(f"{self._root}/stop_requested"):
                self._save()
                write_json(f"{self._root}/stopped.json", {"step": self._step})
                self._oracle.note("stopped", step=self._step)
                return False
            if self._is_due(time.monotonic() - saved_at):
                self._save()
                saved_at = time.monotonic()
        return True

    def complete(self) -> None:
        """The adapter, then the marker."""
        output = f"{self._root}/output"
        os.makedirs(output, exist_ok=True)
        for name in os.listdir(str(self._traits["adapter"])):
            copy(f"{self._traits['adapter']}/{name}", f"{output}/{name}")
        self._oracle.note("done", step=self._step, state=self._state)
        facts = {"steps": self._step, "metrics": {"train_loss": 0.5}, "probe": PROBE}
        write_json(f"{self._root}/completed.json", facts)

    def _advance(self) -> None:
        self._step += 1
        self._state = next_state(self._state, self._step)
        self._oracle.note("step", step=self._step)
        self._progress()
        if self._step % 10 == 0:
            append_json(f"{self._root}/metrics.jsonl", {"step": self._step, "loss": 0.5})

    def _progress(self) -> None:
        share = round(100 * self._step / self._last, 1)
        content = {"step": self._step, "max_steps": self._last, "percent": share}
        content |= {"epoch": 0.5, "loss": 0.5, "eta_seconds": 1.0}
        write_json(f"{self._root}/progress.json", content)

    def _is_due(self, since: float) -> bool:
        limit = float(os.environ.get("FINLORA_CHECKPOINT_SECONDS", "inf"))
        return self._step % int(self._traits["save_every"]) == 0 or since > limit

    def _save(self) -> None:
        """File by file, as the real trainer does: whole only when the line is in saved.jsonl."""
        folder = f"{self._root}/output/checkpoint-{self._step}"
        os.makedirs(folder, exist_ok=True)
        write_state(f"{folder}/{WEIGHTS}", self._state)
        for name in TEMPLATES:
            time.sleep(SAVE_SECONDS)
            copy(f"{self._traits['templates']}/{name}", f"{folder}/{name}")
        state = {"global_step": self._step, "max_steps": self._last, "epoch": 0.5}
        write_json(f"{folder}/trainer_state.json", state)
        append_json(f"{self._root}/saved.jsonl", {"step": self._step})


def next_state(state: int, step: int) -> int:
    """24 bits, which a float32 holds exactly."""
    return crc32(b"%d %d" % (state, step)) & 0xFFFFFF


def write_state(path: str, state: int) -> None:
    """A safetensors file with one number in it."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"state": entry}).encode()
    write(path, struct.pack("<Q", len(header)) + header + struct.pack("<f", state))


def read_state(path: str) -> int:
    with open(path, "rb") as file:
        return int(struct.unpack("<f", file.read()[-4:])[0])


def require_same(path: str, original: str) -> None:
    with open(path, "rb") as file, open(original, "rb") as other:
        if file.read() != other.read():
            raise ValueError(f"{path} is damaged")


def copy(source: str, target: str) -> None:
    with open(source, "rb") as file:
        write(target, file.read())


def write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)


def write_json(path: str, content: Mapping[str, object]) -> None:
    """Replaced as a whole."""
    write(f"{path}.new", json.dumps(content).encode())
    os.replace(f"{path}.new", path)


def append_json(path: str, content: Mapping[str, object]) -> None:
    with open(path, "ab") as file:
        file.write(json.dumps(content).encode() + b"\n")


def leave_straggler(ignores_term: bool) -> None:
    """A child in a session of its own, as a data loader or a daemon would be."""
    if os.fork():
        return
    os.setsid()
    if ignores_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open("/proc/self/comm", "w") as comm:
        comm.write(STRAGGLER)
    time.sleep(STRAGGLER_SECONDS)
    os._exit(0)


def checkpoint_in(config: str) -> str | None:
    with open(config) as file:
        found = re.search(
            r"^resume_from_checkpoint: *['\"]?([^'\"\n]+)", file.read(), re.MULTILINE
        )
    return found[1] if found else None


def noting(oracle: Oracle, event: str, act: Callable[[], None]) -> None:
    try:
        act()
    except Exception as error:
        oracle.note(event, error=repr(error))
        raise


def main() -> int:
    traits, config = json.loads(sys.argv[1]), sys.argv[2]
    root = os.environ["FINLORA_ATTEMPT_DIR"]
    run_id, attempt = root.split("/")[-2:]
    oracle = Oracle(traits["oracle"], run_id, int(attempt.removeprefix("attempt-")))
    oracle.enter()
    if traits["ignores_term"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if traits["straggler"]:
        leave_straggler(bool(traits["ignores_term"]))
    training = Training(root, traits, oracle)
    noting(oracle, "bad_checkpoint", lambda: training.resume(checkpoint_in(config)))
    if training.run():
        training.complete()
    return 0


if __name__ == "__main__":
    sys.exit(main())
