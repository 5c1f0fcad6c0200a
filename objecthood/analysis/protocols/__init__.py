"""Evaluation protocols of the literature, with standard errors: `protocol_scores` and `PROTOCOLS`."""

from objecthood.analysis.protocols.scoring import PROTOCOLS, Protocol, Score, check_protocol, protocol_scores

__all__ = ["PROTOCOLS", "Protocol", "Score", "check_protocol", "protocol_scores"]
