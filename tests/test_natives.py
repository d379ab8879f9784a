"""A Ctrl-C while a native library starts up is heard, and only afterwards."""

import signal
import subprocess
import sys
import threading

import pytest

from tam_edge.runtime.natives import import_native

PRESSED_DURING_START_UP = """
import signal, sys
names = []
def press(event, arguments):
    if event == "import":
        names.append(arguments[0])
        inside = len(names) > 1 and names[-2].endswith("pybind11_state") and not names[-1].endswith("pybind11_state")
        if inside and "pressed" not in names:
            names.append("pressed")
            signal.raise_signal(signal.SIGINT)
sys.addaudithook(press)
from tam_edge.runtime.natives import import_native
try:
    import_native("onnxruntime")
except KeyboardInterrupt:
    print("interrupted", "pressed" in names, hasattr(sys.modules["onnxruntime"], "InferenceSession"))
"""


def test_ctrl_c_while_onnxruntime_starts_up():
    run = subprocess.run([sys.executable, "-c", PRESSED_DURING_START_UP], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (0, "interrupted True True\n", "")


def test_the_callers_handler_is_back_afterwards():
    before = signal.getsignal(signal.SIGINT)
    assert import_native("json") is sys.modules["json"]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        import_native("no_such_library")
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_may_import():
    found = []
    thread = threading.Thread(target=lambda: found.append(import_native("json")))
    thread.start()
    thread.join()
    assert found == [sys.modules["json"]]
