"""Nothing that compiled code prints to standard output gets through, and everything does again afterwards."""

import ctypes
import os
import subprocess
import sys
import textwrap

import pytest

from evsim.base.quiet import quiet_stdout


def _printf(text: bytes) -> None:
    ctypes.CDLL(None).printf(text)


def test_what_goes_to_the_file_descriptor_or_the_c_library_is_lost_meanwhile_only(capfd):
    sys.stdout.write("before\n")
    _printf(b"c before\n")
    with quiet_stdout():
        os.write(1, b"lost\n")
        _printf(b"lost too\n")
    sys.stdout.write("after\n")
    _printf(b"c after\n")
    ctypes.CDLL(None).fflush(None)
    assert sorted(capfd.readouterr().out.split("\n")) == ["", "after", "before", "c after", "c before"]


def test_it_comes_back_after_an_error(capfd):
    with pytest.raises(RuntimeError, match="solver"), quiet_stdout():
        raise RuntimeError("solver")
    os.write(1, b"heard\n")
    assert capfd.readouterr().out == "heard\n"


def test_a_process_without_standard_output_is_quiet_anyway():
    script = """
        import os, sys
        os.close(1)
        from evsim.base.quiet import quiet_stdout
        with quiet_stdout():
            pass
        sys.stderr.write("done")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert done.stderr.startswith("done")
