"""Every error the platform raises on purpose.

RaysaasError
├── Transient            try again: the same call can succeed later            exit 75, HTTP 503
│   ├── Unavailable      an engine or server does not answer (yet)
│   ├── TooSlow          the body of a request did not arrive in time             HTTP 408
│   ├── DeadlineExceeded the answer would come after the caller's deadline     HTTP 504
│   └── QuotaExceeded    a tenant is over its limit                            HTTP 429
└── Terminal             trying again changes nothing                          exit 65, HTTP 400
    ├── ConfigError      a setting is unknown or has a bad value
    ├── InputError       a file, a row or a request is wrong                   HTTP 422
    │   ├── ContractError    too many rows broke the contract: nothing was committed
    │   └── PayloadTooLarge  the body is over the limit                        HTTP 413
    ├── AccessDenied     the key is missing, wrong or expired                  HTTP 401
    │   └── Forbidden    the key is right, its scope or tenant is not          HTTP 403
    ├── NotFound         the named thing does not exist                        HTTP 404
    ├── Frozen           the use case takes no release until it is unfrozen    HTTP 409
    └── CorruptBundle    a model bundle does not match its digests

Anything else that reaches the top is a bug: exit 1, HTTP 500.
Constructors take the finished message only, so that every error crosses process borders by pickle.
"""

from typing import ClassVar


class RaysaasError(Exception):
    """Root of the tree. ``slug`` is the stable last part of the problem+json ``type``."""

    exit_code: ClassVar[int] = 1
    http_status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"


class Transient(RaysaasError):
    """The same call can succeed later."""

    exit_code, http_status, slug = 75, 503, "unavailable"


class Unavailable(Transient):
    """An engine or a server does not answer."""


class TooSlow(Transient):
    """The body of a request did not arrive in time; nothing was done."""

    http_status, slug = 408, "request-timeout"


class DeadlineExceeded(Transient):
    """The work cannot be done within the caller's deadline; none of it was."""

    http_status, slug = 504, "deadline-exceeded"


class QuotaExceeded(Transient):
    """A tenant is over its request limit."""

    http_status, slug = 429, "quota-exceeded"


class Terminal(RaysaasError):
    """Trying again changes nothing."""

    exit_code, http_status, slug = 65, 400, "bad-request"


class ConfigError(Terminal):
    """A setting is unknown or has a bad value."""

    slug = "bad-config"


class InputError(Terminal):
    """A file, a row or a request is wrong; the message names it."""

    http_status, slug = 422, "invalid-input"


class ContractError(InputError):
    """More rows broke the contract than the error budget allows; nothing was committed."""

    slug = "contract-broken"


class PayloadTooLarge(InputError):
    """The request body is over the limit."""

    http_status, slug = 413, "payload-too-large"


class AccessDenied(Terminal):
    """The API key is missing, wrong or expired."""

    http_status, slug = 401, "unauthorized"


class Forbidden(AccessDenied):
    """The key is right, but its scope or tenant does not allow this."""

    http_status, slug = 403, "forbidden"


class NotFound(Terminal):
    """The named thing does not exist."""

    http_status, slug = 404, "not-found"


class Frozen(Terminal):
    """A use case takes no release until it is unfrozen."""

    http_status, slug = 409, "frozen"


class CorruptBundle(Terminal):
    """A model bundle does not match the digests in its manifest."""

    http_status, slug = 500, "corrupt-bundle"
