"""Documents in: read, validate, fingerprint, compare and split; multiple-choice questions."""

from trace_engine.sets.answers import (
    check_answers,
    require_answers,
    unknown_answer,
    with_answer,
)
from trace_engine.sets.documents import Document, Documents, DocumentSet, fingerprint, to_jsonl
from trace_engine.sets.load import bytes_to_read, load_set, open_set, read_documents
from trace_engine.sets.pairs import Overlap, check_pair, overlap, split_documents
from trace_engine.sets.parse import MAX_UPLOAD, SUFFIXES, parse_documents, safe_label
from trace_engine.sets.published import load_questions, set_config
from trace_engine.sets.questions import Question, read_questions

__all__ = [
    "MAX_UPLOAD",
    "SUFFIXES",
    "Document",
    "DocumentSet",
    "Documents",
    "Overlap",
    "Question",
    "bytes_to_read",
    "check_answers",
    "check_pair",
    "fingerprint",
    "load_questions",
    "load_set",
    "open_set",
    "overlap",
    "parse_documents",
    "read_documents",
    "read_questions",
    "require_answers",
    "safe_label",
    "set_config",
    "split_documents",
    "to_jsonl",
    "unknown_answer",
    "with_answer",
]
