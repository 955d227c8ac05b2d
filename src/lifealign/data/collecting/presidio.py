"""Microsoft Presidio as the redactor, the extra `redact`. Imports no torch.

Presidio has recognisers of patterns (e-mail addresses, phone numbers, cards) and takes names and places from a spaCy model.
Without a model it runs on a blank one: patterns are found, names and places are not, and the report says so.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.data.collecting.redaction import Replace

NAMES = ("PERSON", "LOCATION")
"""Kinds that a model of the language finds, of those that are looked for unless others are named."""
OF_A_MODEL = (*NAMES, "NRP", "ORGANIZATION", "DATE_TIME", "AGE", "ID", "EMAIL")
PATTERNS = (
    *("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "MAC_ADDRESS", "CRYPTO", "US_SSN"),
    *("US_ITIN", "US_PASSPORT", "UK_NHS", "MEDICAL_LICENSE"),
)
"""Kinds that patterns find, of those that are looked for unless others are named."""
LOOKED_FOR = ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE")
"""Kinds that are looked for where nothing is redacted."""
THRESHOLD = 0.35
"""Least score of a find. A phone number without words around it has 0.4, a number that may be anything has 0.01."""
INSTALL = "pip install 'lifealign[redact]'"


def installed() -> bool:
    """Whether the extra is there."""
    return all(importlib.util.find_spec(name) is not None for name in ("presidio_analyzer", "presidio_anonymizer"))


class Presidio:
    """Presidio's analyser and anonymiser for one language."""

    def __init__(self, entities: Sequence[str] = (), language: str = "en", model: str | None = None) -> None:
        """Load the recognisers.

        Args:
            entities: kinds to look for; none: `PATTERNS`, and `NAMES` with a model.
            language: of the texts, as a code of two letters.
            model: an installed spaCy model, by name or directory; None: patterns alone.

        Raises:
            ConfigError: the extra or the model is not installed, or a kind is not known.
        """
        if not installed():
            raise ConfigError(f"--redact presidio needs the extra redact: {INSTALL}")
        import presidio_analyzer
        import presidio_anonymizer

        _stay_at_home()
        engine, described = _engine(language, model)
        self._language = language
        self._analyzer = presidio_analyzer.AnalyzerEngine(
            nlp_engine=engine,
            registry=_registry(language, engine),
            supported_languages=[language],
            default_score_threshold=THRESHOLD,
        )
        self._anonymizer = presidio_anonymizer.AnonymizerEngine()
        known = set(self._analyzer.get_supported_entities(language))
        if model is None:
            known -= set(OF_A_MODEL)
        wanted = tuple(entities) or tuple(kind for kind in (*PATTERNS, *NAMES) if kind in known)
        self._check(wanted, known, model)
        self.entities = wanted
        missed = [kind for kind in NAMES if kind not in wanted]
        self.not_found: Sequence[str] = ["names of people, places"] if len(missed) == len(NAMES) else missed
        from importlib.metadata import version

        self.about: Mapping[str, Any] = {
            "redactor": "presidio",
            "presidio-analyzer": version("presidio-analyzer"),
            "presidio-anonymizer": version("presidio-anonymizer"),
            "spacy": version("spacy"),
            "spacy_model": described,
            "language": language,
            "entities": list(wanted),
            "threshold": THRESHOLD,
        }

    def _check(self, wanted: Sequence[str], known: set[str], model: str | None) -> None:
        for kind in wanted:
            if kind in known:
                continue
            if kind in OF_A_MODEL and model is None:
                raise ConfigError(
                    f"--entities {kind}: only a model of the language finds it; give one that is installed, "
                    "e.g. --spacy-model en_core_web_sm (python -m spacy download en_core_web_sm)"
                )
            raise ConfigError(f"--entities {kind}: unknown for {self._language}; known: {', '.join(sorted(known))}")

    def replace(self, text: str, replacement: Replace) -> str:
        """The text with every find replaced; of overlapping finds, the one with the best score counts."""
        from presidio_anonymizer.entities import OperatorConfig

        found = self._analyzer.analyze(text, language=self._language, entities=list(self.entities))
        if not found:
            return text

        def of_kind(kind: str) -> Callable[[str], str]:
            return lambda part: replacement(kind, part)

        operators = {
            kind: OperatorConfig("custom", {"lambda": of_kind(kind)}) for kind in {one.entity_type for one in found}
        }
        return str(self._anonymizer.anonymize(text, found, operators).text)


def _stay_at_home() -> None:
    """Keep the recogniser of addresses from fetching a list of domains; it brings one of its own."""
    import tldextract

    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)


def _engine(language: str, model: str | None) -> tuple[Any, str | None]:
    import spacy
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    if model is not None and not (spacy.util.is_package(model) or Path(model).is_dir()):
        # Presidio would install it with pip by itself.
        raise ConfigError(f"--spacy-model {model}: not installed; try: python -m spacy download {model}")
    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": model or "blank"}])
    try:
        engine.nlp = {language: spacy.blank(language) if model is None else spacy.load(model)}
    except (ImportError, OSError, ValueError) as error:
        where = f"--spacy-model {model}" if model is not None else f"--language {language}"
        raise ConfigError(f"{where}: cannot be loaded: {str(error).splitlines()[0]}") from None
    loaded = engine.nlp[language]
    if loaded.lang != language:
        raise ConfigError(f"--spacy-model {model}: a model of language {loaded.lang!r}, got --language {language!r}")
    return engine, f"{model} {loaded.meta.get('version', '')}".strip() if model is not None else None


def _registry(language: str, engine: Any) -> Any:
    from presidio_analyzer import RecognizerRegistry

    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine)
    return registry
