"""The topics of a topic model: their words, their coherence in documents, and the perplexity of documents."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pvae.checks import require_whole
from pvae.data import Splits
from pvae.densities.bag_of_words import log_coefficient
from pvae.errors import InputError
from pvae.evaluate.base import Estimate
from pvae.evaluate.evaluated_data import ModelOrRun, schema_of
from pvae.evaluate.evaluation_context import EvaluationContext, evaluation_context
from pvae.evaluate.evidence import log_evidence
from pvae.evaluate.running_statistics import CHUNK
from pvae.models import ProdLDA

__all__ = ["Topics", "npmi", "perplexity", "perplexity_with_notes", "topics"]


@dataclass(frozen=True)
class Topics:
    """The topics of a model, with their statistics in some documents. ``print`` shows a line for each topic.

    Attributes:
        words: the most probable words of each topic, the most probable one first.
        probabilities: the probabilities of these words in a document of only this topic, shape (topics, words).
        coherence: for each topic, the mean normalised pointwise mutual information of the pairs of its words, from
            -1, if they never occur together, to 1, if they only occur together; shape (topics,).
        shares: the mean share of each topic in the documents, shape (topics,).
        diversity: the number of different words of all topics, divided by the number of words of all topics.
        documents: the number of documents that have a word.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> counts = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
        >>> found = pvae.evaluate.topics(pvae.ProdLDA(3, topics=2, hidden=4), counts, words=2)
        >>> found.coherence.shape, len(found.words[0])
        (torch.Size([2]), 2)
    """

    words: tuple[tuple[str, ...], ...]
    probabilities: Tensor
    coherence: Tensor
    shares: Tensor
    diversity: float
    documents: int

    def to_json(self) -> dict[str, Any]:
        """Return the topics as plain values, with one line of text for each topic."""
        summary = {
            "coherence": round(float(self.coherence.mean()), 4),
            "diversity": round(self.diversity, 4),
            "documents": self.documents,
        }
        return summary | {f"topic {topic}": line for topic, line in enumerate(self._lines())}

    def _lines(self) -> list[str]:
        """Return the share, the coherence and the words of each topic."""
        rows = zip(self.words, self.shares.tolist(), self.coherence.tolist(), strict=True)
        return [f"share {share:.3f}  coherence {value:.2f}  {' '.join(words)}" for words, share, value in rows]

    def __str__(self) -> str:
        lines = [f"topic {topic}  {line}" for topic, line in enumerate(self._lines())]
        mean = f"mean coherence {self.coherence.mean():.3f}, diversity {self.diversity:.2f}"
        return "\n".join([*lines, f"{mean}, in {self.documents} documents"])


def topics(
    model: ModelOrRun, data: Any = None, *, words: int | None = None, names: Sequence[str] | None = None, **where: Any
) -> Topics:
    """Return the most probable words of each topic, and their coherence in documents.

    The words of a product of experts are also ordered by softmax(beta), the probabilities of words in a document of
    only one topic. Documents without a word have no information on words that occur together. They are left out, with a
    warning.

    Args:
        model: a run of a `pvae.ProdLDA`, or the model.
        data: the documents; for a run, by default its test split. See `pvae.evaluate`. Use ``split="train"`` for more
            documents.
        words: the number of words of a topic; by default 10, or all if there are fewer.
        names: the words of the vocabulary; by default the names of the columns of the data.
        where: ``limit``, ``seed``, ``device``, ``split``; see `pvae.evaluate`.

    Raises:
        InputError: for another model, for fewer than 2 words or more than there are, for a number of names that is not
            the number of words, or if no document has a word.
    Source: the coherence, Bouma, Normalized (Pointwise) Mutual Information in Collocation Extraction, GSCL 2009;
        as in Lau, Newman & Baldwin, Machine Reading Tea Leaves, EACL 2014, with whole documents as windows.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> counts = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
        >>> model = pvae.ProdLDA(3, topics=2, hidden=4)
        >>> found = pvae.evaluate.topics(model, counts, words=2, names=["ice", "snow", "sun"])
        >>> sorted(set(found.words[0]) | set(found.words[1]))
        ['ice', 'snow', 'sun']
    """
    with evaluation_context(model, data, **where) as context:
        topic_model = _topic_model(context)
        probabilities = topic_model.topic_words().double().cpu()
        size = probabilities.shape[1]
        count = min(10, size) if words is None else words
        count = require_whole(count, "words", least=2, most=size, advice=f"The vocabulary has {size} words.")
        vocabulary = _vocabulary(model, data, names, size)
        top = probabilities.topk(count)
        occurring, shares = [], []
        for batch in context.chunks(CHUNK):
            occurring.append((batch["x"].reshape(batch.size, size) > 0).cpu())
            shares.append(topic_model.shares(batch["x"]).double().cpu())
        chosen = [[vocabulary[index] for index in row] for row in top.indices.tolist()]
        distinct = len({index for row in top.indices.tolist() for index in row})
        occurs = torch.cat(occurring)
        has_words = _documents_with_words(occurs, top.indices)
        documents = occurs[has_words]
        coherence = torch.stack([npmi(documents[:, row]) for row in top.indices])
        return Topics(
            tuple(tuple(row) for row in chosen),
            top.values,
            coherence,
            torch.cat(shares)[has_words].mean(0),
            distinct / top.indices.numel(),
            len(documents),
        )


def _documents_with_words(occurs: Tensor, top: Tensor) -> Tensor:
    """Return which documents have a word, shape (documents,), with a warning of what the coherence leaves out.

    Args:
        occurs: whether a word occurs in a document, shape (documents, vocabulary).
        top: the most probable words of each topic, shape (topics, words).

    Raises:
        InputError: if no document has a word.
    """
    has_words = occurs.any(1)
    if not bool(has_words.any()):
        raise InputError("The coherence of topics needs documents with words; all counts of these data are 0.")
    empty = int((~has_words).sum())
    if empty:
        warnings.warn(f"{empty} of {len(occurs)} documents have no word, and are left out.", stacklevel=3)
    listed = top.unique()
    absent = int((~occurs[:, listed].any(0)).sum())
    if absent:
        warnings.warn(
            f"{absent} of the {len(listed)} words of the topics are in no document, and their pairs have the coherence "
            "-1. Use more documents, such as split='train'.",
            stacklevel=3,
        )
    return has_words


def npmi(occurs: Tensor) -> Tensor:
    """Return the mean normalised pointwise mutual information of all pairs of words, a number.

    For words i and j that occur in shares p_i and p_j of the documents, and together in a share p_ij, it is
    log(p_ij / (p_i p_j)) / -log p_ij. It is -1 for a pair that never occurs together, and 1 for a pair that is in every
    document.

    Args:
        occurs: whether a word occurs in a document, shape (documents, words), at least 2 words.
    """
    presence = occurs.double()
    together = presence.T @ presence / len(presence)
    alone = presence.mean(0)
    first, second = torch.triu_indices(len(alone), len(alone), offset=1)
    joint, apart = together[first, second], alone[first] * alone[second]
    values = (joint / apart).log() / -joint.log()
    values = torch.where(joint > 0, values, -1.0)
    return torch.where(joint == 1, 1.0, values).mean()


def perplexity(
    model: ModelOrRun, data: Any = None, particles: int = 1000, *, chunk: int = CHUNK, **where: Any
) -> Estimate:
    """Return the perplexity per word: exp(-L / n), where L is the log evidence of all n words.

    It is the evidence of the words in their order, without the multinomial coefficient that `log_evidence` contains. It
    is estimated by importance sampling, which is too low on average, so the perplexity is too high; more particles
    lower it. Long documents count more than short ones. A uniform choice of words has a perplexity of the size of the
    vocabulary.

    Args:
        model: a run of a `pvae.ProdLDA`, or the model.
        data: the documents; for a run, by default its test split. See `pvae.evaluate`.
        particles: the number of draws of z per document.
        chunk: the largest number of (particle, document) evaluations at once; it bounds the memory.
        where: ``limit``, ``seed``, ``device``, ``split``; see `pvae.evaluate`.

    Raises:
        InputError: for another model, or for documents without a word.

    Example:
        >>> import pvae, torch
        >>> _ = torch.manual_seed(0)
        >>> counts = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
        >>> options = {"epochs": 60, "step": "eager", "learning_rate": 0.02, "progress": False}
        >>> run = pvae.fit(pvae.ProdLDA(3, topics=2, hidden=4), counts.repeat(50, 1), **options)
        >>> 2 < pvae.evaluate.perplexity(run.model, counts, particles=1000).value < 3  # 3 is a guess among three words
        True
    """
    value, notes = perplexity_with_notes(model, data, particles, chunk=chunk, **where)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return value


def perplexity_with_notes(
    model: ModelOrRun, data: Any, particles: int, *, chunk: int = CHUNK, **where: Any
) -> tuple[Estimate, list[str]]:
    """Return the perplexity per word, and notes on how far it can be trusted, in place of warnings.

    Args:
        model: as for `perplexity`.
        data: as for `perplexity`.
        particles: as for `perplexity`.
        chunk: as for `perplexity`.
        where: as for `perplexity`.

    Raises:
        InputError: for another model, or for documents without a word.
    """
    with evaluation_context(model, data, **where) as context:
        _topic_model(context)
        counts = torch.cat([batch["x"].reshape(batch.size, -1).double().cpu() for batch in context.chunks(chunk)])
    totals = counts.sum(1)
    if not bool(totals.sum() > 0):
        raise InputError("A perplexity per word needs documents with words; all counts of these data are 0.")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evidence = log_evidence(model, data, particles, chunk=chunk, **where)
    notes = [f"The perplexity is too high. {warning.message}" for warning in caught]
    if evidence.pointwise is None:
        raise InputError(
            "A perplexity needs the log evidence of each document; this model has only one for all documents together."
        )
    nats = evidence.pointwise - log_coefficient(counts)
    rate = float(nats.sum() / totals.sum())
    # the ratio of two means over documents; its error is the error of the mean of the residuals
    residual = Estimate.mean_of((nats - rate * totals) / totals.mean())
    value = math.exp(-rate)
    return Estimate(value, value * residual.error, evidence.count, subset=evidence.subset), notes


def _topic_model(context: EvaluationContext) -> ProdLDA:
    if not isinstance(context.model, ProdLDA):
        raise InputError(
            f"Topics and their perplexity need a topic model; got {type(context.model).__name__}. Train a prodlda."
        )
    return context.model


def _vocabulary(model: Any, data: Any, names: Sequence[str] | None, size: int) -> Sequence[str]:
    """Return the name of each word: the given names, the names of the columns, or the numbers of the words."""
    known = schema_of(model).columns or (data.schema.columns if isinstance(data, Splits) else ())
    given = known if names is None else names
    if not given:
        return [f"word {index}" for index in range(size)]
    if len(given) != size:
        raise InputError(f"names needs the {size} words of the vocabulary; got {len(given)}. Give one for each column.")
    return given
