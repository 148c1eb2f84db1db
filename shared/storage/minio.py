"""Artifacts in MinIO or any S3 store. minio-py blocks, so its calls run on threads of our own.

An error of the store or of the network is DependencyUnavailable, and so is one of the folder where streams wait on their way. One of the
caller's own file (a full disk while downloading, a file that is not there) stays an OSError: urllib3 and minio-py have exceptions of their
own for everything remote, so the two cannot be mistaken.
"""

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import urllib3
from minio import Minio
from minio.commonconfig import CopySource
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from shared.errors import DependencyUnavailable, ObjectCorrupt, ObjectMissing
from shared.own_folder import OwnFolder
from shared.ports import StoredFile
from shared.settings import SharedSettings
from shared.storage import keys
from shared.storage.hashing import CHUNK_BYTES, HashingReader, in_large_chunks, saved, temporary_beside
from shared.storage.lifecycle import expire_objects

THREADS = 8
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
PART_BYTES = 16 << 20  # larger files go up in parts, three at a time: at most 64 MiB in memory
LONGEST_LINK = timedelta(days=7)  # of the signature's own

_UPLOADS = "meshwork-upload-"
_MISSING = {"NoSuchKey", "NoSuchVersion"}
_ALREADY_MADE = {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}

T = TypeVar("T")


def _is_refused(error: BaseException) -> bool:
    return isinstance(error, DependencyUnavailable) and isinstance(error.__cause__, S3Error) and error.__cause__.code == "AccessDenied"


# MinIO on a folder of its own refuses a write, now and then, beside which the last object of that folder is being removed.
_tried_again = retry(
    retry=retry_if_exception(_is_refused), stop=stop_after_attempt(5), wait=wait_random_exponential(0.05, max=1.0), reraise=True
)


class MinioStore:
    """An ArtifactStore on one bucket. `work_dir`: where streams wait on their way; None for the system's temporary folder.

    store = MinioStore("http://minio:9000", "key", "secret", "meshwork", public_endpoint="https://files.example.org")
    await store.prepare()
    """

    def __init__(
        self,
        endpoint: str,
        access_key: str,
        secret_key: str,
        bucket: str,
        public_endpoint: str = "",
        region: str = "us-east-1",
        work_dir: Path | None = None,
    ) -> None:
        self._bucket = bucket
        self._uploads = OwnFolder(work_dir, _UPLOADS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="store")
        pool = _connection_pool()
        self._client = _client(endpoint, access_key, secret_key, region, pool)
        # Signs links for the address that callers see. With a region it asks nobody.
        self._public = _client(public_endpoint or endpoint, access_key, secret_key, region, pool)

    @classmethod
    def of(cls, settings: SharedSettings) -> "MinioStore":
        """The bucket that this process's settings name."""
        secret = settings.s3_secret_key.get_secret_value()
        endpoints = settings.s3_endpoint, settings.s3_public_endpoint
        return cls(endpoints[0], settings.s3_access_key, secret, settings.s3_bucket, endpoints[1], settings.s3_region, settings.work_dir)

    async def prepare(self, retention: timedelta | None = None) -> None:
        """Makes the bucket when it is missing, and lets it expire what is older than `retention` and a week, where the store can.

        Removes what killed processes left on its way.
        """
        await self._uploads.clear()
        await self._run(self._make_bucket)
        if retention is not None:
            await self._run(expire_objects, self._client, self._bucket, keys.JOBS, retention + timedelta(days=7))

    async def close(self) -> None:
        """Ends the threads; calls under way end by their own timeouts."""
        await self._uploads.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def put(self, key: str, data: bytes, content_type: str = "application/json") -> None:
        """Writes the whole object."""
        await self._run(self._put, key, data, content_type)

    async def get(self, key: str, max_bytes: int = 64 << 20) -> bytes:
        """The whole object. Raises ObjectCorrupt when it is larger than `max_bytes`."""
        return await self._run(self._get, key, max_bytes)

    async def exists(self, key: str) -> bool:
        """Whether there is an object under this key."""
        try:
            await self._run(self._stat, key)
        except ObjectMissing:
            return False
        return True

    async def upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        """Writes a file (in parts when large) and returns its size and sha256."""
        return await self._run(self._upload, path, key, content_type)

    async def upload_stream(self, chunks: AsyncIterator[bytes], key: str, content_type: str) -> StoredFile:
        """Writes what comes in, without holding it in memory. What breaks off leaves nothing.

        It goes through a file, so that a slow sender holds none of the few threads; while the disk is full, that is DependencyUnavailable.
        """
        keys.checked(key)
        with _on_its_way():
            await self._uploads.open()
            path = temporary_beside(self._uploads.path / "object")
            await asyncio.to_thread(path.touch)
        try:
            async for chunk in in_large_chunks(chunks):
                await asyncio.to_thread(_append, path, chunk)
            with _on_its_way():
                return await self.upload(path, key, content_type)
        finally:
            path.unlink(missing_ok=True)

    async def download(self, key: str, path: Path, sha256: str | None = None) -> int:
        """Writes the object to `path` (parents made, atomically) and returns its size. Raises ObjectCorrupt when the sha256 differs."""
        return await self._run(self._download, key, path, sha256)

    async def stream(self, key: str) -> AsyncIterator[bytes]:
        """The object in chunks."""
        response = await self._run(self._open, key)
        try:
            while chunk := await self._run(_read, response, key):
                yield chunk
        finally:
            response.close()  # not returned to the pool: the rest may not have been read
            response.release_conn()

    async def copy(self, source: str, target: str) -> None:
        """Copies on the server's side."""
        await self._run(self._copy, source, target)

    async def list(self, prefix: str) -> Sequence[str]:
        """Every key below a prefix, sorted."""
        return await self._run(self._list, prefix)

    async def delete(self, keys: Sequence[str]) -> None:
        """Removes keys; those that are not there are no error."""
        await self._run(self._delete, keys)

    async def presign(self, key: str, expires: timedelta, filename: str, content_type: str) -> str | None:
        """A link for anybody, at the public endpoint, that saves under `filename`. Seven days at most: the signature allows no more."""
        headers: dict[str, Any] = {"response-content-disposition": _attachment(filename), "response-content-type": content_type}
        expires = max(timedelta(seconds=1), min(expires, LONGEST_LINK))
        return str(self._public.presigned_get_object(self._bucket, keys.checked(key), expires=expires, response_headers=headers))

    async def ping(self) -> None:
        """Raises DependencyUnavailable unless the bucket answers."""
        await self._run(self._ping)

    async def _run(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def _make_bucket(self) -> None:
        with _remote(""):
            try:
                if not self._client.bucket_exists(self._bucket):
                    self._client.make_bucket(self._bucket)
            except S3Error as error:
                if error.code not in _ALREADY_MADE:  # by another process, just now
                    raise

    def _ping(self) -> None:
        with _remote(""):
            if not self._client.bucket_exists(self._bucket):
                raise DependencyUnavailable(f"the bucket {self._bucket} does not exist")

    def _stat(self, key: str) -> None:
        with _remote(key):
            self._client.stat_object(self._bucket, keys.checked(key))

    @_tried_again
    def _put(self, key: str, data: bytes, content_type: str) -> None:
        with _remote(key):
            self._client.put_object(self._bucket, keys.checked(key), io.BytesIO(data), len(data), content_type=content_type)

    def _open(self, key: str) -> urllib3.BaseHTTPResponse:
        with _remote(key):
            return self._client.get_object(self._bucket, keys.checked(key))

    def _get(self, key: str, max_bytes: int) -> bytes:
        with _closing(self._open(key)) as response, _remote(key):
            if int(response.headers.get("content-length", 0)) > max_bytes:
                raise ObjectCorrupt(key)
            return response.read()

    @_tried_again
    def _upload(self, path: Path, key: str, content_type: str) -> StoredFile:
        size = path.stat().st_size
        part_bytes = PART_BYTES if size > PART_BYTES else 0
        with path.open("rb") as file, _remote(key):
            reader: Any = HashingReader(file)  # minio-py asks for a BinaryIO and uses `read` alone
            self._client.put_object(self._bucket, keys.checked(key), reader, size, content_type=content_type, part_size=part_bytes)
        return StoredFile(key, reader.bytes_read, reader.sha256)

    def _download(self, key: str, path: Path, sha256: str | None) -> int:
        with _closing(self._open(key)) as response:
            return saved(response, _read, key, path, sha256)

    def _copy(self, source: str, target: str) -> None:
        with _remote(source):
            self._client.copy_object(self._bucket, keys.checked(target), CopySource(self._bucket, keys.checked(source)))

    def _list(self, prefix: str) -> Sequence[str]:
        if prefix.strip("/"):
            keys.checked(prefix.rstrip("/"))
        with _remote(prefix):
            return sorted(item.object_name for item in self._client.list_objects(self._bucket, prefix=prefix, recursive=True))

    def _delete(self, unwanted: Sequence[str]) -> None:
        objects = [DeleteObject(keys.checked(key)) for key in unwanted]
        with _remote(""):
            failures = [failure for failure in self._client.remove_objects(self._bucket, objects) if failure.code not in _MISSING]
        if failures:
            raise DependencyUnavailable(f"the store did not remove {failures[0].name}: {failures[0].code}")


def _client(endpoint: str, access_key: str, secret_key: str, region: str, pool: urllib3.PoolManager) -> Minio:
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise ValueError(f"the S3 endpoint {endpoint!r} must begin with http:// or https://")
    return Minio(
        endpoint=parts.netloc, access_key=access_key, secret_key=secret_key, secure=parts.scheme == "https", region=region, http_client=pool
    )


def _connection_pool() -> urllib3.PoolManager:
    """Few quick retries: a store that is really away is waited for by the caller, who can say so."""
    return urllib3.PoolManager(
        maxsize=4 * THREADS,  # large uploads use three connections of each thread
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
        retries=urllib3.Retry(total=2, connect=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504], raise_on_status=False),
        cert_reqs="CERT_REQUIRED",
    )


@contextmanager
def _remote(key: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code in _MISSING:
            raise ObjectMissing(f"there is no artifact {key}") from error
        raise DependencyUnavailable(f"the store refuses: {error.code}") from error
    except (urllib3.exceptions.HTTPError, MinioException) as error:
        raise DependencyUnavailable(f"the store does not answer: {type(error).__name__}") from error


@contextmanager
def _closing(response: urllib3.BaseHTTPResponse) -> Iterator[urllib3.BaseHTTPResponse]:
    try:
        yield response
    except BaseException:
        response.close()
        raise
    finally:
        response.release_conn()


def _read(source: urllib3.BaseHTTPResponse | HashingReader, key: str) -> bytes:
    with _remote(key):
        return source.read(CHUNK_BYTES)


@contextmanager
def _on_its_way() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DependencyUnavailable(f"no upload can be kept on its way to the store: {error.strerror}") from error


def _append(path: Path, chunk: bytes) -> None:
    with _on_its_way(), path.open("ab") as file:
        file.write(chunk)


def _attachment(filename: str) -> str:
    """RFC 6266: the name for everybody, with a plain one for old clients."""
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\' else "_" for c in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
