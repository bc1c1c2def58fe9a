"""Downloads data sets of the Hugging Face hub, hf://datasets/OWNER/NAME[@REVISION][/FOLDER], pinned to a revision."""

import pathlib
import re
from typing import NamedTuple

from data_pipelines import images
from data_pipelines.errors import UserError, first_line, join_names
from data_pipelines.source_files import table_files

HUB = 'hf://'
_ADDRESS = re.compile(r'hf://datasets/([\w.-]+/[\w.-]+)(?:@([\w./-]+?))?(?:/([^@]*))?')
_BINARY = (*table_files.PARQUET, *table_files.ARROW)
_ARCHIVES = ('.zip', '.tar', '.gz', '.tgz', '.7z', '.rar')


class HubData(NamedTuple):
  """A downloaded data set: its folder, its name on the hub, and its commit."""

  folder: pathlib.Path
  name: str
  revision: str

  @property
  def address(self) -> str:
    """The address of exactly these files."""
    return f'{HUB}datasets/{self.name}@{self.revision}'


def download(address: str) -> HubData:
  """Downloads the tables of a repository, or if it has none, its images; what was downloaded before is used again.

  Nothing of it is executed. Files lie in huggingface_hub's cache, whose place, tokens, proxies and offline mode are set
  as its documentation says.

  Args:
    address: see above; the revision is a branch, a tag or a commit.

  Raises:
    UserError: the address cannot be read, the repository or the hub cannot be reached, or it holds nothing usable.
  """
  matched = _ADDRESS.fullmatch(address.rstrip('/'))
  if not matched:
    raise UserError(f'{address} is no data set of the hub: write hf://datasets/OWNER/NAME, or .../NAME@REVISION')
  name, revision, folder = matched[1], matched[2], matched[3] or ''
  import huggingface_hub
  try:
    info = huggingface_hub.HfApi().dataset_info(name, revision=revision)
    files = [file.rfilename for file in info.siblings or () if file.rfilename.startswith(folder)]
    wanted = _wanted(files, address)
    print(f'{address}: revision {info.sha}, {len(wanted)} of {len(files)} files', flush=True)
    path = huggingface_hub.snapshot_download(name, repo_type='dataset', revision=info.sha, allow_patterns=wanted)
  except UserError:
    raise
  except Exception as error:  # It has dozens of its own, of its HTTP library and of the system.
    raise UserError(f'{address} cannot be fetched ({first_line(error)}): {_remedy(error)}') from error
  return HubData(pathlib.Path(path, folder), name, str(info.sha))


def _wanted(files: list[str], address: str) -> list[str]:
  """The files to fetch: those with tables that hold images, else text tables and images."""
  by_suffix = {file: pathlib.PurePosixPath(file).suffix.lower() for file in files}
  if tables := [file for file, suffix in by_suffix.items() if suffix in _BINARY]:
    return tables
  found = [file for file, suffix in by_suffix.items() if suffix in images.SUFFIXES]
  if not found:
    archives = [file for file, suffix in by_suffix.items() if suffix in _ARCHIVES]
    why = f'its images are in {join_names(archives)}: download and unpack those' if archives else 'look at its page'
    raise UserError(f'{address} holds neither Parquet nor Arrow files nor images; {why}')
  return [*found, *(file for file, suffix in by_suffix.items() if suffix in (*table_files.TEXT, *table_files.JSON))]


def _remedy(error: Exception) -> str:
  from huggingface_hub import errors

  if isinstance(error, errors.GatedRepoError):
    return 'accept its terms on its page, and log in with `hf auth login`'
  if isinstance(error, errors.RevisionNotFoundError):
    return 'choose a branch, a tag or a commit that it has'
  if isinstance(error, errors.RepositoryNotFoundError):
    return 'check the name, and if it is private, log in with `hf auth login`'
  return 'check the connection, and run the same command again: what was downloaded is kept'
