"""Which language a text is in, as an ISO 639-1 code; the same answer every time and in every thread.

The detector is langdetect, as in the reference, with three differences: its random draws are seeded, its profiles are loaded
once under a lock, and nothing of it is changed for other users in the process.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from rlvr.errors import ConfigError

SEED = 0
MAX_DETECT_CHARS = 20_000  # langdetect itself reads 10,000

NAMES = {
    "en": "English", "es": "Spanish", "pt": "Portuguese", "ar": "Arabic", "hi": "Hindi", "fr": "French", "ru": "Russian",
    "de": "German", "ja": "Japanese", "it": "Italian", "bn": "Bengali", "uk": "Ukrainian", "th": "Thai", "ur": "Urdu",
    "ta": "Tamil", "te": "Telugu", "bg": "Bulgarian", "ko": "Korean", "pl": "Polish", "he": "Hebrew", "fa": "Persian",
    "vi": "Vietnamese", "ne": "Nepali", "sw": "Swahili", "kn": "Kannada", "mr": "Marathi", "gu": "Gujarati", "pa": "Punjabi",
    "ml": "Malayalam", "fi": "Finnish",
}  # fmt: skip

_factory: Any = None
_lock = threading.Lock()  # only one thread loads the profiles; what is loaded is then only read


def detect(text: str) -> str | None:
    """The language of `text`, "unknown" where none is likely, None where it has no letters to tell by.

    Raises:
        ConfigError: langdetect is not installed.
    """
    from langdetect.lang_detect_exception import LangDetectException

    detector = _loaded().create()
    detector.seed = SEED
    detector.append(text[:MAX_DETECT_CHARS])
    try:
        found: str = detector.detect()
    except LangDetectException:
        return None
    return found


def load() -> None:
    """Load the profiles now (half a second), so that no response pays for it."""
    _loaded()


def _loaded() -> Any:
    global _factory
    if _factory is None:
        with _lock:
            if _factory is None:
                _factory = _load_profiles()
    return _factory


def _load_profiles() -> Any:
    try:
        from langdetect import PROFILES_DIRECTORY, DetectorFactory
    except ImportError as error:
        raise ConfigError("the language of a text needs langdetect: pip install 'rlvr[instruction]'") from error
    # In the order of their names, not of the folder: ties are then broken alike on every machine.
    files = sorted(path for path in Path(PROFILES_DIRECTORY).iterdir() if not path.name.startswith("."))
    factory = DetectorFactory()
    factory.load_json_profile([path.read_text(encoding="utf-8") for path in files])
    return factory
