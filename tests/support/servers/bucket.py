"""A bucket for tests: starts `bucket_server`, and the environment in which every library takes it for Google's."""

from collections.abc import Iterator
import contextlib
import datetime
import ipaddress
import json
from pathlib import Path
import subprocess
import sys
from typing import Any
import urllib.request

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parents[3]
NAME = 'bucket'


class Bucket:
  """A running emulator. `url` is 'gs://bucket'; with the variables of `environment`, a process finds it."""

  def __init__(self, port: int, certificate: Path):
    self.url = f'gs://{NAME}'
    self.address = f'http://127.0.0.1:{port}'
    self.environment = {
        'https_proxy': self.address, 'no_proxy': '127.0.0.1', 'CURL_CA_BUNDLE': str(certificate),
        'NO_GCE_CHECK': 'true', 'TENSORSTORE_GCS_HTTP_URL': self.address, 'STORAGE_EMULATOR_HOST': self.address,
        'GOOGLE_CLOUD_PROJECT': 'tests'}

  def _ask(self, path: str, body: bytes | None = None, method: str | None = None) -> bytes:
    request = urllib.request.Request(self.address + path, body, method=method)
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
      return answer.read()

  def set(self, **settings: Any) -> None:
    """What the server does from now on (`bucket_server.Server`); also sets all counts to 0."""
    self._ask('/_settings', json.dumps(settings).encode(), 'PUT')

  def counts(self) -> dict[str, int]:
    """Requests and bytes since the last `set`."""
    return json.loads(self._ask('/_counts'))

  def names(self, prefix: str = '') -> list[str]:
    """Names of all objects below a prefix, at most 1,000."""
    listed = json.loads(self._ask(f'/storage/v1/b/{NAME}/o?prefix={prefix}'))
    return [item['name'] for item in listed['items']]

  def read(self, name: str) -> bytes:
    """One object's bytes."""
    return self._ask(f'/{NAME}/{urllib.request.quote(name, safe="")}')

  def write(self, name: str, content: bytes) -> None:
    """Writes one object."""
    quoted = urllib.request.quote(name, safe='')
    self._ask(f'/upload/storage/v1/b/{NAME}/o?uploadType=media&name={quoted}', content, 'POST')

  def upload(self, folder: Path, prefix: str) -> None:
    """Every file below a local folder."""
    for path in sorted(folder.rglob('*')):
      if path.is_file():
        self.write(f'{prefix}/{path.relative_to(folder).as_posix()}', path.read_bytes())


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Bucket]:
  """An emulator with one empty bucket; its certificate lies in `folder`."""
  certificate = folder / 'storage.pem'
  certificate.write_bytes(_certificate())
  command = [
      sys.executable, '-m', 'tests.support.servers.bucket_server', f'--bucket={NAME}', f'--certificate={certificate}']
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
    try:
      yield Bucket(int(server.stdout.readline()), certificate)
    finally:
      server.kill()


def _certificate() -> bytes:
  """A key and a certificate that it signed itself, for the hosts that TensorFlow asks."""
  key = ec.generate_private_key(ec.SECP256R1())
  name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'emulated storage')])
  hosts = [x509.DNSName('*.googleapis.com'), x509.IPAddress(ipaddress.ip_address('127.0.0.1'))]
  now = datetime.datetime.now(datetime.UTC)
  certificate = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(
      key.public_key()).serial_number(1).not_valid_before(now - datetime.timedelta(
          days=1)).not_valid_after(now + datetime.timedelta(days=1)).add_extension(
              x509.SubjectAlternativeName(hosts),
              critical=False).add_extension(x509.BasicConstraints(ca=True, path_length=None),
                                            critical=True).sign(key, hashes.SHA256())
  pem = serialization.Encoding.PEM
  private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
  return private + certificate.public_bytes(pem)
