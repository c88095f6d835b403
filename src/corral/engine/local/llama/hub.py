"""Model files on the Hugging Face Hub, kept in the Hub's own cache, and how people name them."""

import logging
import re
from contextlib import suppress
from pathlib import Path

from corral.engine.local.llama.fault import ModelFileError

logger = logging.getLogger("corral.llama")

SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
"""What llama.cpp puts at the end of the names of a split model's files, before the suffix."""


FORM = "hf:OWNER/REPO/FILE.gguf"

_URL = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<path>[^?#]+)(?:[?#].*)?", re.IGNORECASE
)
_REPO = re.compile(r"[\w.-]+/[\w.-]+(?<!\.gguf)")
_OLLAMA = re.compile(r"[\w.-]+:[\w.-]+")


def named(model: str) -> str | None:
    """The model as `hf:…` if it is named so or by its URL on the Hub; None if it must be a path.

    Raises ModelFileError for a URL of anything but the main revision of a model.
    """
    if model.startswith("hf:"):
        return model
    url = _URL.fullmatch(model)
    if url is None:
        return None
    parts: list[str] = [part for part in str(url["path"]).split("/") if part]
    match parts[2:]:
        case ["blob" | "resolve" | "tree", "main", *_]:
            del parts[2:4]
        case ["blob" | "resolve" | "tree", revision, *_]:
            raise ModelFileError(
                f"{model} is of the revision {revision}, and corral takes the main one; download the file, "
                "and give its path"
            )
    return "hf:" + "/".join(parts)


def hint(model: str) -> str:
    """What a path may have been meant for at which there is no file; empty, or with a semicolon before it."""
    if _REPO.fullmatch(model) or (
        model.count("/") == 2 and model.endswith(".gguf") and model[0] not in "./~"
    ):
        return f"; did you mean hf:{model}?"
    if _OLLAMA.fullmatch(model):
        return f"; Ollama's names are not known here: give a GGUF file, or {FORM}"
    return ""


def download(model: str) -> Path:
    """Fetch `hf:OWNER/REPO/FILE.gguf`, all shards of it if it is split. Blocks.

    Raises ModelFileError; of a repository without a file it names those that there are.
    """
    owner, _, rest = model.removeprefix("hf:").partition("/")
    repo_name, _, filename = rest.partition("/")
    repo_name, _, _label = repo_name.partition(":")  # llama.cpp's way: hf:OWNER/REPO:Q4_K_M
    if not (owner and repo_name) or (filename and not filename.endswith(".gguf")):
        raise ModelFileError(f"{model} is not of the form {FORM}")
    # Imported here: it takes as long to import as the rest of corral.
    from huggingface_hub import errors, hf_hub_download

    repo, shards = f"{owner}/{repo_name}", _shards(filename)
    try:
        if not filename:
            raise ModelFileError(_choice(repo))
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


def _choice(repo: str) -> str:
    """A sentence that names a repository's models, the smallest first. Blocks; raises the Hub's errors."""
    from huggingface_hub import HfApi, errors

    try:
        files = HfApi().model_info(repo, files_metadata=True).siblings or ()
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError):
        raise
    except Exception as error:  # its HTTP library's own, which is another one in other releases
        raise ModelFileError(
            f"no file of {repo} is named, and the Hugging Face Hub cannot be reached to see which there are "
            f"({_first_line(error)})"
        ) from None
    sizes = {
        file.rfilename: file.size or 0
        for file in files
        if file.rfilename.endswith(".gguf") and "mmproj" not in file.rfilename
    }
    totals: dict[str, int] = {}
    for name, size in sizes.items():
        totals[_shards(name)[0]] = totals.get(_shards(name)[0], 0) + size
    if not totals:
        return (
            f"{repo} holds no .gguf file; most models have repositories that do: "
            f"https://huggingface.co/models?library=gguf&search={repo.partition('/')[2]}"
        )
    by_size = sorted(totals.items(), key=lambda item: item[1])
    choice = ", ".join(f"{name} ({size / 1e9:.1f} GB)" for name, size in by_size)
    return f"name a file of {repo}, as in hf:{repo}/{by_size[0][0]}; there are {choice}"


def _shards(filename: str) -> list[str]:
    split = SHARD.search(filename.removesuffix(".gguf"))
    if not split:
        return [filename]
    stem, count = filename[: split.start()], int(split[2])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
