"""Versions on their way into a deployment: read from disk, made known to the engines, and retired.

vLLM loads adapters at run time by path. Only directories of families that the operator allowed are ever named to it,
and an adapter that changed gets a new name, ``<policy>@<fingerprint>``, because vLLM keeps the cached prefixes of a
name. Such a name tells what is behind it: an engine that lists it needs nothing, whoever had it loaded.
"""

import asyncio
import filecmp
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mopo_serve.deployment import Version
from mopo_serve.engines import Pool, Replica
from mopo_serve.routing import Routing, read_routing
from mopo_train.errors import EngineError, FamilyError
from mopo_train.family import base_model_path, read_family


class Releases:
    """Makes versions of the families below ``allowed`` directories and brings their adapters to the engines."""

    def __init__(self, root: Path, profiles: Path | None, allowed: Iterable[Path] = ()) -> None:
        self.root, self.profiles = root, profiles
        self._started = root.resolve()
        self._allowed = [path.resolve() for path in (*allowed, root)]
        self._served: dict[str, str] = {}
        """Adapter fingerprint by the name under which engines serve it."""
        self._places: dict[str, Path] = {}
        """Directory of an adapter by that name."""
        self._outdated: set[str] = set()
        """Policies whose files have changed since: an engine that is started again has others under their ids."""
        self._loading = asyncio.Lock()

    def first(self, routing: Routing, listed: Sequence[Mapping[str, str]] = ()) -> Version:
        """The version that the engines were started with: a policy is called by its id.

        ``listed``: the models of each engine that somebody else started, with where they are from. Where a gateway
        before this one had a changed adapter loaded, the policy's id stands for the old one. Raises EngineError if not
        all engines have what is on disk.
        """
        names, places = {}, adapter_places(self.root, routing)
        for policy, fingerprint in adapter_fingerprints(self.root, routing).items():
            name, place, newest = policy, places[policy], f"{policy}@{fingerprint}"
            every = [(each, Path(origin)) for models in listed for each, origin in models.items()]
            if any(each == newest or (each.startswith(f"{policy}@") and origin == place) for each, origin in every):
                name = names[policy] = newest
                if any(name not in models for models in listed):
                    raise EngineError(
                        f"not every engine serves the adapter that is in '{place}' now: another one was loaded from "
                        "there while they ran. Start the engines again."
                    )
            self._served[name], self._places[name] = fingerprint, place
        return version_of(routing, self.root, self.profiles, names)

    async def make(self, pool: Pool, root: Path | None, profiles: Path | None) -> Version:
        """The version in ``root`` as it is on disk now, served by every engine. Raises MopoError; nothing changed then.

        Where ``root`` is None, it is the family that the gateway was started with, or the one promoted since.
        """
        place = self.root if root is None else self._permitted(root)
        table = profiles or (self.profiles if root is None else None)
        routing = await asyncio.to_thread(read_routing, place, table)
        wanted = await asyncio.to_thread(adapter_fingerprints, place, routing)
        own = await asyncio.to_thread(read_family, self.root)
        bases = base_model_path(place, routing.family), base_model_path(self.root, own)
        if not await asyncio.to_thread(same_model, *bases):
            raise FamilyError(
                f"the family in '{place}' has another base model than the one being served; start a gateway of its own."
            )
        if place.resolve() == self._started:
            self._outdated |= {policy for policy, now in wanted.items() if self._served.get(policy, now) != now}
        names = {policy: self._name(policy, print_) for policy, print_ in wanted.items()}
        missing = {name: policy for policy, name in names.items() if name not in self._served}
        places = adapter_places(place, routing)
        for name, policy in missing.items():
            await self._load(pool, name, places[policy])
            self._served[name], self._places[name] = wanted[policy], places[policy]
        well = [replica for replica in pool.replicas if replica.well]  # others are completed when they return
        await asyncio.gather(*map(self.complete, well), return_exceptions=True)
        changed = {policy: name for policy, name in names.items() if name != policy}
        return await asyncio.to_thread(version_of, routing, place, table, changed)

    def promote(self, version: Version) -> None:
        """From now on, ``version``'s family and profiles are those that are read again."""
        if version.root is not None:
            self.root, self.profiles = version.root, version.profiles

    async def unload(self, pool: Pool, needed: Iterable[Version]) -> list[EngineError]:
        """Unload the adapters that no ``needed`` version uses; gives why an engine keeps one.

        No version may be made meanwhile: it could count on one of them.
        """
        kept = names_of(needed)
        gone = [name for name in self._served if "@" in name and name not in kept]
        for name in gone:
            del self._served[name], self._places[name]
        unloading = [replica.upstream.unload_adapter(name) for name in gone for replica in pool.replicas]
        found = await asyncio.gather(*unloading, return_exceptions=True)
        return [error for error in found if isinstance(error, EngineError)]

    def check_unchanged(self, live: Iterable[Version]) -> None:
        """Raise FamilyError where an adapter of ``live`` versions is not on disk as it was when it was scored."""
        needed = names_of(live)
        for name in list(self._served):
            try:
                self._check(name)
            except FamilyError:
                if name in needed:
                    raise
                del self._served[name], self._places[name]  # an engine that starts again serves others under it

    async def load_again(self, replica: Replica) -> None:
        """Have an engine that was started again load what it had loaded, and trust it anew. Raises EngineError."""
        await self.complete(replica)
        replica.start_over()

    async def complete(self, replica: Replica) -> None:
        """Have ``replica`` load what it lacks of what it should have. Raises EngineError, FamilyError."""
        async with self._loading:
            wanted = {name: place for name, place in self._places.items() if "@" in name}
            listed = await replica.upstream.models() if wanted else ()
            for name, place in wanted.items():
                if name not in listed:
                    await asyncio.to_thread(self._check, name)
                    await replica.upstream.load_adapter(name, str(place))

    def _check(self, name: str) -> None:
        """Raise FamilyError if an adapter is not on disk as it was when it was scored."""
        try:
            now = adapter_fingerprint(self._places[name])
        except OSError:
            now = "none"
        if now != self._served[name]:
            raise FamilyError(
                f"the adapter in '{self._places[name]}' has changed since the gateway began to serve it; start the "
                "gateway again, which reads the new scores too."
            )

    def _name(self, policy: str, fingerprint: str) -> str:
        """What engines call this adapter: the policy's id if that is what they were started with."""
        if self._served.get(policy) == fingerprint and policy not in self._outdated:
            return policy
        return f"{policy}@{fingerprint}"

    async def _load(self, pool: Pool, name: str, path: Path) -> None:
        loaded = []
        try:
            for replica in pool.replicas:
                if name not in await replica.upstream.models():  # another gateway may have had it loaded
                    await replica.upstream.load_adapter(name, str(path))
                    loaded.append(replica)
        except EngineError as error:
            for replica in loaded:
                await replica.upstream.unload_adapter(name)
            raise EngineError(
                f"the engines cannot load the adapter '{name}' while they run: {error}. Start the gateway with "
                "--live-adapters, or attached engines with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True on a private address; "
                "or start both again."
            ) from error

    def _permitted(self, root: Path) -> Path:
        """``root`` if it lies in an allowed directory. Raises FamilyError."""
        found = root.resolve()
        if not any(found == each or each in found.parents for each in self._allowed):
            raise FamilyError(
                f"'{root}' is not in a directory that this gateway may take families from; name it with "
                "--allow-families when you start the gateway."
            )
        return found


def names_of(versions: Iterable[Version]) -> set[str]:
    """What engines call the policies of all ``versions``."""
    return {version.engine_name(policy) for version in versions for policy in version.routing.cards}


def version_of(routing: Routing, root: Path, profiles: Path | None, names: Mapping[str, str]) -> Version:
    """``routing`` as it goes live, with a fingerprint of everything that decides."""
    digest = hashlib.sha256()
    for policy, fingerprint in adapter_fingerprints(root, routing).items():
        digest.update(f"{policy} {fingerprint}\n".encode())
    for path in [*sorted((root / "scorecards").glob("*.json")), profiles or root / "profiles.yaml"]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return Version(routing, names, f"{routing.identity}+{digest.hexdigest()[:8]}", root, profiles)


def same_model(one: str, other: str) -> bool:
    """True if two base models are one: the same place or hub name, or directories of the same files, byte for byte."""
    if one == other:
        return True
    first, second = Path(one), Path(other)
    if not (first.is_dir() and second.is_dir()):
        return False
    names = [sorted(path.name for path in place.iterdir() if path.is_file()) for place in (first, second)]
    return names[0] == names[1] and not any(filecmp.cmpfiles(first, second, names[0], shallow=False)[1:])


def adapter_fingerprints(root: Path, routing: Routing) -> dict[str, str]:
    """What tells one adapter from another, by policy. Raises FamilyError."""
    return {policy: adapter_fingerprint(place) for policy, place in adapter_places(root, routing).items()}


def adapter_fingerprint(directory: Path) -> str:
    """A digest of an adapter's files."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("adapter_*")):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def adapter_places(root: Path, routing: Routing) -> dict[str, Path]:
    """The directory of each policy's adapter. Raises FamilyError for one outside of the family."""
    found = {}
    for policy in routing.family.policies:
        if not policy.adapter:
            continue
        directory = (root / policy.adapter).resolve()
        if root.resolve() not in directory.parents:
            raise FamilyError(f"policy '{policy.id}' has its adapter outside of the family: '{directory}'.")
        found[policy.id] = directory
    return found
