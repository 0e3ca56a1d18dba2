"""A short run of the fuzzer (tests/fuzz), and all inputs that its corpus keeps; `make fuzz` runs it for longer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz import conversation, scanner

pytestmark = pytest.mark.t0

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {"scanner": scanner.check, "conversation": conversation.check}
RUNS = {"scanner": 20_000, "conversation": 2_000}


@pytest.mark.parametrize("target", CHECKS)
def test_every_input_of_the_corpus_passes(target: str) -> None:
    inputs = sorted((ROOT / "tests" / "fuzz" / "corpus" / target).iterdir())
    assert len(inputs) > 5
    for path in inputs:
        CHECKS[target](path.read_bytes())


@pytest.mark.parametrize("target", CHECKS)
def test_inputs_nobody_thought_of_pass(target: str, tmp_path: Path) -> None:
    pytest.importorskip("atheris")
    flags = [target, "--as-installed", "--runs", str(RUNS[target]), "--seed", "1", "--found", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "tests.fuzz", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"Done {RUNS[target]} runs" in done.stderr


def test_an_answer_to_another_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that answers the command after the one that it was asked."""
    story = (ROOT / "tests" / "fuzz" / "corpus" / "conversation" / "get").read_bytes()
    take = conversation._Conversation.answer_some

    def answer_another(self: conversation._Conversation) -> None:
        for server in self.servers:
            server.pending.extend([[b"get", b"another"] for _ in range(len(server.pending))])
            server.pending.rotate(len(server.pending) // 2)
        take(self)

    monkeypatch.setattr(conversation._Conversation, "answer_some", answer_another)
    with pytest.raises(AssertionError, match="GET"):
        conversation.check(story)
