"""Model files on the Hugging Face Hub, kept in the Hub's own cache."""

import logging
import re
from contextlib import suppress
from pathlib import Path

from corral.engine.local.llama.fault import ModelFileError

logger = logging.getLogger("corral.llama")

SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
"""What llama.cpp puts at the end of the names of a split model's files, before the suffix."""


def download(model: str) -> Path:
    """Fetch `hf:OWNER/REPO/FILE.gguf`, all shards of it if it is split. Blocks. Raises ModelFileError."""
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
    split = SHARD.search(filename.removesuffix(".gguf"))
    if not split:
        return [filename]
    stem, count = filename[: split.start()], int(split[2])
    return [f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
