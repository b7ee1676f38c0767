"""Which experts tokens are routed to, per document, and where forget and retain differ."""

from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample

__all__ = ["Profile", "RoutingCounts", "TokenSample"]
