"""The scripts in .ci: the README's command is taken verbatim, and no process is left behind."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CI = Path(__file__).resolve().parent.parent / ".ci"
REAP = [sys.executable, str(CI / "reap.py")]


@pytest.fixture(scope="module")
def readme_command() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_command", CI / "readme_command.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


README = """# Title
<!-- demo-command -->
```sh
demo --seconds 30
```

<!-- test-command -->

~~~ bash
one && \\
  two `three`
~~~
"""


def test_the_block_after_the_marker_is_taken_verbatim(readme_command: ModuleType) -> None:
    assert readme_command.stated_command(README, "test-command") == "one && \\\n  two `three`\n"
    assert readme_command.stated_command(README, "demo-command") == "demo --seconds 30\n"


@pytest.mark.parametrize(
    "text",
    [
        "no marker\n```\nx\n```\n",
        "<!-- test-command -->\nno block\n",
        "<!-- test-command -->\ntext between\n```\nx\n```\n",
        "<!-- test-command -->\n```\n\n```\n",
        "<!-- test-command -->\n```\nnever closed\n",
    ],
)
def test_a_missing_command_is_an_error(readme_command: ModuleType, text: str) -> None:
    with pytest.raises(LookupError):
        readme_command.stated_command(text, "test-command")


def reap(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*REAP, *command], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's child subreaper")
class TestReap:
    def test_the_commands_exit_status_is_passed_on(self) -> None:
        assert reap("true").returncode == 0
        assert reap("sh", "-c", "exit 3").returncode == 3
        assert reap("sh", "-c", "kill -9 $$").returncode == 128 + signal.SIGKILL

    def test_a_process_left_in_a_session_of_its_own_is_killed_and_is_a_failure(self) -> None:
        done = reap("sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $!")
        assert done.returncode == 70
        assert "sleep 1000" in done.stderr
        with pytest.raises(ProcessLookupError):
            os.kill(int(done.stdout), 0)

    def test_a_signal_ends_everything_below(self) -> None:
        command = [*REAP, "sh", "-c", "setsid sleep 1000 & echo $!; wait"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout is not None
            below = int(running.stdout.readline())
            running.terminate()
            assert running.wait(timeout=60) == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(below, 0)
