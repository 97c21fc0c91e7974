from __future__ import annotations

from spark_helium.gpu_executor.last_words import last_words, read_from

VLLM = """\
(EngineCore pid=77) ERROR 11-22 11:00:01 [core.py:900] EngineCore failed to start.
(EngineCore pid=77) ERROR 11-22 11:00:01 [core.py:900] Traceback (most recent call last):
(EngineCore pid=77) ERROR 11-22 11:00:01 [core.py:900]   File "core.py", line 1, in run
(EngineCore pid=77) ERROR 11-22 11:00:01 [core.py:900] torch.OutOfMemoryError: CUDA out of memory.
Loading weights:  50%|#####     | 1/2 [00:01<00:01, 1.00it/s]

Traceback (most recent call last):
  File "daemon.py", line 2, in create
RuntimeError: Engine core initialization failed. See root cause above.
"""


def test_the_root_cause_comes_last():
    lines = last_words(VLLM).splitlines()
    assert lines[-1] == "cause: torch.OutOfMemoryError: CUDA out of memory."
    assert lines[-2] == "RuntimeError: Engine core initialization failed. See root cause above."
    assert not any("it/s" in line or not line for line in lines)


def test_a_last_line_that_tells_all_is_not_repeated():
    assert last_words("starting\nOSError: disk full\n") == "starting\nOSError: disk full"


def test_length_is_bounded():
    words = last_words("\n".join(f"line {i} " + "x" * 1000 for i in range(500)))
    assert len(words.splitlines()) == 20
    assert len(words) < 20 * 410
    assert "line 499" in words


def test_read_from(tmp_path):
    path = tmp_path / "log"
    assert read_from(path, 0) == ""
    path.write_bytes(b"before\nafter\xff\n")
    assert read_from(path, 7) == "after�\n"
    assert read_from(path, 0, limit=3) == "r�\n"
