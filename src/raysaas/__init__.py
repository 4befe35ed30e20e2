"""raysaas: a distributed compute framework on Ray for the AI features of a multi-tenant SaaS product."""

__version__ = "0.1.0"
