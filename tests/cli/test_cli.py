"""The commands: exit codes, what they print where, and that they write nothing but what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import Call, listing
from conftest import CLASSES, Clinic
from stored_results import write_run

from modeldoctor.cli import diagnosing
from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.errors import ExitCode, InterruptedRunError, ModelDoctorError
from modeldoctor.results.hdf5 import read_diagnosis
from modeldoctor.runtime.versions import own_version

LAYER = "layer3.0.conv3"
# Through hooks nothing is exported, which takes most of the time of so small a run.
QUICK = ("--layers", LAYER, "--noise-draws", "1", "--samples-per-class", "10", "--device", "cpu", "--hooks")


def start(*arguments: object, cwd: Path, program: tuple[str, str] = ("-m", "modeldoctor")) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def written(name: str) -> list[str]:
    """What a diagnosis leaves, in the order of a listing."""
    return [f"{name}.{ending}" for ending in ("h5", "json", "suspects.csv", "wrong.csv")]


# --- what works --------------------------------------------------------------------------------------------------


def test_a_diagnosis_is_shown_and_written(call: Call, clinic: Clinic) -> None:
    code, out, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK)
    assert code == 0, err
    assert "timm/test_resnet: accuracy" in out
    assert "written: diagnosis.h5, diagnosis.json" in out
    assert sorted(path.name for path in Path.cwd().iterdir()) == written("diagnosis")
    diagnosis = read_diagnosis(Path("diagnosis.h5"))
    summary = json.loads(Path("diagnosis.json").read_text(encoding="utf-8"))
    assert list(diagnosis.layers) == [LAYER]
    assert diagnosis.classes == CLASSES
    assert summary["wrong"] == diagnosis.wrong_count
    assert f"({diagnosis.wrong_count} of {summary['images']} images wrong)" in out


def test_json_is_all_of_stdout_and_the_folder_is_made(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder" / "run.h5"
    code, out, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--json", "-o", output)
    assert code == 0, err
    assert json.loads(out) == json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    assert json.loads(out)["layers"][0]["name"] == LAYER
    assert sorted(path.name for path in output.parent.iterdir()) == written("run")
    assert not list(Path.cwd().iterdir())


def test_only_the_output_folder_changes(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    home = clinic.checkpoint.parent
    before, here = listing(home), listing(Path.cwd())
    code, _, _ = call(
        "diagnose", clinic.checkpoint, "--data", clinic.data, "--masks", clinic.masks, *QUICK,
        "-o", tmp_path / "o" / "d.h5",
    )  # fmt: skip
    assert code == 0
    assert listing(home) == before
    assert listing(Path.cwd()) == here
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == written("d")


def test_options_reach_the_diagnosis(call: Call, clinic: Clinic) -> None:
    options = {
        "noise-draws": 2, "delta": 0.25, "delta-unit": "absolute", "samples-per-class": 4, "min-confidence": 0.5,
        "threshold": 0.4, "max-explained": 2, "split": "val", "examine": "train", "seed": 9, "batch-size": 5,
        "layers": LAYER, "device": "cpu",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    code, _, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, *words, "--hooks")
    assert code == 0, err
    diagnosis = read_diagnosis(Path("diagnosis.h5"))
    config = diagnosis.config
    for name, value in options.items():
        assert getattr(config, name.replace("-", "_")) == value, name
    assert config.hooks
    assert diagnosis[LAYER].count.tolist() == [4] * 4
    assert len(diagnosis.misdiagnosed) == 2
    assert diagnosis.examined == "train"


def test_every_key_of_the_config_is_an_option() -> None:
    import inspect

    parameters = inspect.signature(diagnosing.diagnose).parameters
    assert set(DiagnoseConfig.model_fields) <= set(parameters)
    for name, parameter in parameters.items():
        if name == "noise_ranges":
            assert parameter.default == ",".join(map(str, DiagnoseConfig().noise_ranges))
        elif name in DiagnoseConfig.model_fields and name != "layers":  # it depends on --list-layers
            assert parameter.default == getattr(DiagnoseConfig(), name), name


def test_a_report_is_written_whole_before_its_gates_speak(call: Call, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", gain=0.3)
    before = listing(run)
    code, out, err = call("report", run, "-o", "out", "--format", "md, json", "--fail-under", "accuracy=0.5")
    assert code == 0, err
    assert "improved" in out
    assert {path.name for path in Path("out").iterdir()} == {"report.md", "report.json"}
    assert listing(run) == before
    code, out, err = call(
        "report", run, "-o", "out", "--fail-under", "accuracy=0.99", "--fail-under", "worst_class=0.1",
        "--fail-on", "gain<0.5",
    )  # fmt: skip
    assert code == ExitCode.GATE
    assert Path("out/report.html").exists()
    assert "figures.accuracy is 0.9, wanted >= 0.99; figures.gain is 0.3, wanted >= 0.5" in err
    assert "worst_class" not in err
    code, _, err = call("report", run / "diagnosis.h5", run / "diagnosis.h5", "-o", "both", "--fail-on", "gian<0")
    assert code == ExitCode.USAGE
    assert "the nearest is gain" in err
    assert not Path("both").exists()
    assert call("report", tmp_path / "nothing")[0] == ExitCode.INPUT
    assert call("report", run, "-o", run / "trial.json")[0] == ExitCode.USAGE


def test_weights_are_identified(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    bare = tmp_path / "[b]bare.pt"
    torch.save({f"[i].{n}": t for n, t in torch.load(clinic.checkpoint)["state_dict"].items()}, bare)
    code, out, _ = call("identify", bare)
    assert code == 0
    assert "timm/test_resnet: of" in out
    assert "4 classes, 3 input channels" in out
    assert "names carry the prefix '[i].'" in " ".join(out.split())
    code, out, _ = call("identify", bare, "--json")
    found = json.loads(out)
    assert (code, found["arch"], found["fits"]) == (0, "timm/test_resnet", True)
    torch.save({"weight": torch.ones(2)}, bare)
    code, out, err = call("identify", bare)
    assert (code, out) == (ExitCode.INPUT, "")
    assert "of no architecture that is known" in err
    assert not list(Path.cwd().iterdir())


def test_layers_are_listed_without_data(call: Call, clinic: Clinic) -> None:
    code, out, err = call("diagnose", clinic.checkpoint, "--list-layers", "--layers", "layer3.*", "--device", "cpu")
    assert code == 0, err
    assert LAYER in out
    assert "layer2" not in out
    assert not list(Path.cwd().iterdir())


@pytest.mark.filterwarnings("always::modeldoctor.errors.ModelDoctorWarning")
def test_warnings_go_to_stderr(call: Call, clinic: Clinic) -> None:
    code, out, err = call(
        "diagnose", clinic.checkpoint, "--data", clinic.data, *QUICK, "--samples-per-class", "99", "--json"
    )
    assert code == 0
    assert "warning: 4 of 4 classes have fewer than 99 images" in err
    assert json.loads(out)["warnings"]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--delta", "-1"], "--delta"),
        (["--delta", "nan"], "--delta"),
        (["--delta", "inf"], "--delta"),
        (["--delta-unit", "pixels"], "--delta-unit"),
        (["--noise-draws", "-1"], "--noise-draws"),
        (["--min-confidence", "90"], "--min-confidence"),
        (["--threshold", "1.5"], "--threshold"),
        (["--samples-per-class", "0"], "--samples-per-class"),
        (["--max-explained", "-1"], "--max-explained"),
        (["--seed", "-1"], "--seed"),
        (["--batch-size", "0"], "--batch-size"),
        (["--workers", "-1"], "--workers"),
        (["--device", "gpu"], "--device"),
        (["--layers", "layer9"], "layer9"),
        (["--split", "validate"], "--split"),
        (["--mean", "a,b"], "--mean"),
        (["--batch-size", "many"], "--batch-size"),
        (["--colour"], "--colour"),
        (["-o", "."], "it is a folder"),
        (["-o", "d.json"], "d.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_said_and_nothing_is_written(call: Call, clinic: Clinic, options: list[str], said: str) -> None:
    code, out, err = call("diagnose", clinic.checkpoint, "--data", clinic.data, "--hooks", "--device", "cpu", *options)
    assert code == 2
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert not list(Path.cwd().iterdir())


def test_missing_data_is_wrong_usage(call: Call, clinic: Clinic) -> None:
    code, _, err = call("diagnose", clinic.checkpoint)
    assert code == 2
    assert "--data" in err


@pytest.mark.parametrize("words", [("full",), ("-o", "full")])
def test_the_demos_folder_is_named_with_or_without_an_option(call: Call, words: tuple[str, ...]) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("1")
    code, _, err = call("demo", *words)
    assert (code, "full" in err, "not empty" in err) == (2, True, True)
    assert call("demo", "here", "-o", "there")[0] == 2
    assert not Path("here").exists()


def test_bad_input_is_said_and_nothing_is_written(call: Call, clinic: Clinic, tmp_path: Path) -> None:
    text, empty, masks = tmp_path / "text.pt", tmp_path / "empty", tmp_path / "none"
    text.write_text("no checkpoint")
    empty.mkdir()
    nameless = tmp_path / "nameless.pt"
    torch.save({"state_dict": {"encoder.weight": torch.zeros(7, 5), "encoder.bias": torch.zeros(7)}}, nameless)
    data = ("--data", clinic.data)
    cases = {
        "no such checkpoint": ("nowhere.pt", *data),
        "text as checkpoint": (text, *data),
        "no architecture": (nameless, *data),
        "unknown architecture": (clinic.checkpoint, *data, "--arch", "resnet9000"),
        "no such data": (clinic.checkpoint, "--data", "nowhere"),
        "empty folder": (clinic.checkpoint, "--data", empty),
        "no such masks": (clinic.checkpoint, *data, "--masks", masks),
    }
    for case, arguments in cases.items():
        code, out, err = call("diagnose", *arguments, *QUICK, "-o", "new/d.h5")
        assert code == 3, (case, err)
        assert err.strip().startswith("error\nfound: "), (case, err)
        assert "Traceback" not in err, case
        assert out == "", case
        assert not list(Path.cwd().iterdir()), case


def test_markup_in_messages_is_text(call: Call) -> None:
    code, _, err = call("diagnose", "[red]x[/red].pt", "--data", "d")
    assert code == 3
    assert "[red]x[/red].pt" in err


def test_each_error_has_its_exit_code() -> None:
    found = {ModelDoctorError, *ModelDoctorError.__subclasses__()}
    codes = {kind.__name__: int(kind.exit_code) for kind in found}
    assert codes == {
        "ModelDoctorError": 1, "UsageError": 2, "InputError": 3, "GateError": 4, "GraphError": 1,
        "InterruptedRunError": 130, "JobError": 1, "MemoryLimitError": 2,
    }  # fmt: skip
    assert ExitCode.GATE == 4


def test_a_message_has_its_four_parts() -> None:
    error = InterruptedRunError("stopped", where="here", expected="an end", hint="go on")
    assert str(error) == "found: stopped\nwhere: here\nexpected: an end\nnext: go on"
    assert str(ModelDoctorError("x")) == "found: x"


# --- as a process ------------------------------------------------------------------------------------------------


def test_help_and_version_are_quick_and_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['modeldoctor', {!r}]\n"
        "from modeldoctor.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    sys.stderr.write(str(bool({{'torch', 'timm', 'h5py'}} & set(sys.modules))))"
    )
    for option, said in (("--version", own_version()), ("--help", "diagnose")):
        done = subprocess.run(
            [sys.executable, "-c", code.format(option)], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert done.returncode == 0
        assert said in done.stdout
        assert done.stderr == "False"


@pytest.mark.parametrize("words", [["-h"], ["diagnose", "-h"], ["treat", "-h"]])
def test_the_short_word_for_help_is_known_everywhere(call: Call, words: list[str]) -> None:
    code, out, _ = call(*words)
    assert code == 0
    assert "Usage" in out


def test_a_terminal_that_cannot_show_a_name_is_no_fault(clinic: Clinic, tmp_path: Path) -> None:
    content = torch.load(clinic.checkpoint, weights_only=True)
    content["class_names"] = [f"{name} 🐈" for name in CLASSES]
    torch.save(content, tmp_path / "cats.pt")
    for name in CLASSES:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{name} 🐈").symlink_to(clinic.data / "train" / name)
    done = subprocess.run(
        [sys.executable, "-m", "modeldoctor", "diagnose", "cats.pt", "--data", "data", *QUICK],
        capture_output=True, cwd=tmp_path, timeout=100, env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"amber ?" in done.stdout


def test_ctrl_c_is_resumable(clinic: Clinic, tmp_path: Path) -> None:
    """Interrupted from outside when the first batch has been correlated, which the process tells on stderr."""
    arguments = (
        "diagnose", clinic.checkpoint, "--data", clinic.data, "--layers", "layer2.0.conv1", "--hooks",
        "--noise-draws", 1, "--batch-size", 2, "--samples-per-class", 10, "--max-explained", 0, "--device", "cpu",
        "--json", "-o", tmp_path / "out" / "d.h5",
    )  # fmt: skip
    telling = (
        "import sys, time\n"
        "from modeldoctor import cli\n"
        "from modeldoctor.diagnosis.passes import Run\n"
        "after_batch = Run.after_batch\n"
        "def tell(self, stage, done, total):\n"
        "    after_batch(self, stage, done, total)\n"
        "    print('now:', stage, file=sys.__stderr__, flush=True)\n"
        "    while stage == 'correlate' and not self.stop.requested: time.sleep(0.01)\n"
        "Run.after_batch = tell\n"
        "cli.main()\n"
    )
    process = start(*arguments, cwd=tmp_path, program=("-c", telling))
    assert process.stderr is not None
    assert "now: correlate" in iter(lambda: process.stderr.readline().strip(), "end of file")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted while it was doing: correlate" in err
    assert "--resume" in err
    assert "Traceback" not in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["d.h5.partial"]
    resumed = start(*arguments, "--resume", cwd=tmp_path)
    out, err = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, err
    assert json.loads(out)["layers"][0]["name"] == "layer2.0.conv1"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written("d")
    assert read_diagnosis(tmp_path / "out" / "d.h5")["layer2.0.conv1"].count.tolist() == [10] * 4


@pytest.mark.parametrize("module", ["typer", "modeldoctor.cli.commands", "torch", "timm", "h5py"])
def test_ctrl_c_while_libraries_load_ends_with_its_code_alone(clinic: Clinic, tmp_path: Path, module: str) -> None:
    program = (
        "import os, signal, sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from modeldoctor import cli\n"
        "cli.main()\n"
    )
    process = start(
        "diagnose", clinic.checkpoint, "--data", clinic.data, "-o", "d.h5", cwd=tmp_path, program=("-c", program)
    )
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out, err) == (130, "", "")
    assert not list(tmp_path.iterdir())


# --- treat ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_work_does_not_change_the_code(number: int) -> None:
    """Sent when the interpreter takes its modules down, by when it has put back what signals do by default."""
    code = (
        "import os, sys\n"
        "class Last:\n"
        f"    def __del__(self, kill=os.kill, process=os.getpid()): kill(process, {int(number)})\n"
        "last, sys.argv = Last(), ['modeldoctor', '--version']\n"
        "from modeldoctor.cli import main\n"
        "main()\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    assert own_version() in process.stdout
