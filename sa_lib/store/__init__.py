"""The store: everything trained is a file, found by a hash of everything that it was made from.

`artifacts` gets or makes them, `archive` packs them for others, `digests` says what they are known by, and `files`
writes them whole.
"""

from .artifacts import Artifact, Part, get_or_make, kept, load, pack, part, requested, save
from .digests import code_digest, code_text, file_digest, fingerprint, tensor_digest, text_digest
from .files import cache_root, expanded, write_atomically

__all__ = ["Artifact", "Part", "cache_root", "code_digest", "code_text", "expanded", "file_digest", "fingerprint",
           "get_or_make", "kept", "load", "pack", "part", "requested", "save", "tensor_digest", "text_digest",
           "write_atomically"]
